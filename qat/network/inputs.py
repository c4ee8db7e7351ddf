"""What may enter a network: integers of a range, as floats that hold them."""

import torch
from torch import Tensor

from quantal.export.base.errors import BadInput
from quantal.qat.engine import cpu

_CHECKED = 65_536  # values of the input that are checked at a time, so that they stay in a processor's cache


def check_input(x: Tensor, channels: int, most: int, fused: bool) -> None:
    """Raises BadInput unless x (batch, steps, channels) has a step and holds integers 0 … most, as float32 or float64.

    On a GPU this waits for x: a fault that is found later, the driver tells, and takes the process with it. fused:
    whether the engine is made for this pass anyway, which then looks at x too.
    """
    if x.ndim != 3 or x.shape[2] != channels or not x.shape[1]:
        raise BadInput(f"input: expected (samples, steps from 1, {channels} inputs), got {tuple(x.shape)}")
    if x.dtype not in (torch.float32, torch.float64):
        kind = str(x.dtype).removeprefix("torch.")
        raise BadInput(f"input: expected integers as float32 or float64, got {kind}")
    values = x.detach()
    compiled = fused and not x.is_cuda and cpu.available()
    if not (cpu.whole(values, most) if compiled else _whole(values, most)):
        sample, step, channel = (values.clamp(0, most).floor_() != values).nonzero()[0].tolist()
        raise BadInput(
            f"input: expected integers 0..{most}, got {float(values[sample, step, channel]):g} "
            f"at sample {sample}, step {step}, channel {channel}"
        )


def _whole(x: Tensor, most: int) -> bool:
    """Whether x holds integers 0 … most alone; on the CPU a few samples at a time."""
    some = len(x) if x.is_cuda else _CHECKED // max(1, x.shape[1] * x.shape[2])
    # NaN does not equal itself
    return all(torch.equal(part.clamp(0, most).floor_(), part) for part in torch.split(x, max(1, some)))

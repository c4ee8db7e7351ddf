"""State quantizers: the levels on which a membrane is kept. To add one: a function, and its row in STATE_QUANTIZERS.

Levels are measured in thresholds; a layer turns them into integers, in accumulator units. They are `fixed` + `basis` ·
ranges, and the ranges, where there are any, are learned.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Any

import torch
from torch import Tensor

from quantal.qat.arithmetic import exact
from quantal.qat.arithmetic.exact import FLOAT32, FLOAT64
from quantal.qat.arithmetic.torch_ops import round_half_up

_DENSITY = {1: 0.05, 2: 0.1, 3: 0.3, 4: 0.5, 5: 0.7, 6: 0.9, 7: 0.925, 8: 0.95}


@dataclass(frozen=True)
class StateQuantizer:
    """A table of N levels in thresholds: fixed (N,) + basis (N, R) · ranges (R,).

    first, least, most: the ranges at first, and what they are kept within. above: the first level above the threshold
    where the border between it and the one below lies at the threshold itself; None where borders are all midpoints.
    middles (N − 1,): borders lie at these times the reach instead, whose logarithm is the last range; gradients then
    pass as through a sum of sigmoids. spanning: the ranges, given those so far, whose levels span [lo, hi].
    """

    fixed: Tensor
    basis: Tensor
    first: tuple[float, ...] = ()
    least: tuple[float, ...] = ()
    most: tuple[float, ...] = ()
    above: int | None = None
    middles: Tensor | None = None
    spanning: Callable[[float, float, Tensor], Tensor] | None = None

    def levels(self, ranges: Tensor) -> Tensor:
        """The levels (N,) in thresholds, float64."""
        return self.fixed.to(ranges.device) + self.basis.to(ranges.device) @ ranges.double()

    def integers(self, ranges: Tensor, reference: float) -> tuple[Tensor, Tensor]:
        """(levels (N,), borders (N − 1,)) as integers, one threshold being `reference` of them.

        A border is the least integer of the level above it: of two levels equally near the upper one is taken.
        """
        levels = round_half_up(self.levels(ranges) * reference)
        if self.above is not None:  # however near the threshold, the level above it lies above it
            levels.data[self.above :].clamp_(min=reference + 1)
        borders = torch.ceil((levels[1:] + levels[:-1]) / 2).detach()
        if self.middles is not None:  # a sigmoid becomes a step that is strict, as x > b
            borders = (
                torch.floor(self.middles.to(ranges.device) * (exact.exp(float(ranges[-1].detach())) * reference)) + 1
            )
        if self.above is not None:
            borders[self.above - 1] = reference + 1  # a neuron fires strictly above its threshold
        return levels, borders


def _float64(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, **FLOAT64)


def _fixed(levels: Tensor) -> StateQuantizer:
    return StateQuantizer(levels, levels.new_zeros(len(levels), 0))


def _ranged(
    fixed: Tensor, basis: Tensor, first: Sequence[float], least: Sequence[float], most: Sequence[float],
    spanning: Callable[[float, float, Tensor], Tensor], **others: Any,
) -> StateQuantizer:  # fmt: skip
    """With those ranges alone on which some level depends: of few bits there are not levels for all."""
    used = basis.any(dim=0)
    first, least, most = (tuple(torch.tensor(values, **FLOAT64)[used].tolist()) for values in (first, least, most))
    return StateQuantizer(
        fixed, basis[:, used], first, least, most,
        spanning=lambda lo, hi, ranges: spanning(lo, hi, ranges)[used.to(ranges.device)], **others,
    )  # fmt: skip


def squat(bits: int, centre: float | None, lower: float = 0.0, upper: float = 0.2) -> StateQuantizer:
    """SQUAT's levels, 2^bits on [−(1 + lower), 1 + upper] (arXiv 2404.19668), equal to those of snnTorch 1.0.0.

    centre None: evenly spaced. Else ever denser towards the centre, which is not a level: 1, the threshold, or 0.
    At rest the membrane is not 0, and a neuron does not fire at its threshold exactly, unless a level lies so.
    """
    count, least, most = 1 << bits, -(1 + lower), 1 + upper
    if centre is None:
        return _fixed(_float64([least + (most - least) * k / (count - 1) for k in range(count)]))
    below = int(count * (centre - least) / (most - least))
    ratios = list(accumulate([_DENSITY[bits]] * (count - 1), mul, initial=1.0))
    # Gaps shrink towards the centre from below and grow away from it above; below, the last step reaches the centre.
    down, up = ratios[:below], ratios[: count - below][::-1]
    lower_levels = [least + (centre - least) * share for share in (0.0, *_shares(down))][:below]
    return _fixed(_float64(lower_levels + [centre + (most - centre) * share for share in _shares(up)]))


def _shares(gaps: list[float]) -> list[float]:
    """How far one has come after each of the gaps, of all that they span."""
    return [done / math.fsum(gaps) for done in accumulate(gaps)]


def aligned(bits: int) -> StateQuantizer:
    """The aligned grid: 0 is a level, a border lies at the threshold, levels near it are denser, the range is learned.

    Of 2^bits levels a quarter lies below 0, evenly down to −ranges[0]; half of them less one between 0 and the
    threshold, up to ranges[1]; a quarter above it, the further the sparser, up to ranges[2].
    """
    count = 1 << bits
    upper, inner = max(1, count // 4), count // 2 - 1
    lower = count - 1 - upper - inner
    fixed, basis = torch.zeros(count, **FLOAT64), torch.zeros(count, 3, **FLOAT64)
    basis[:lower, 0] = -torch.arange(lower, 0, -1, **FLOAT32) / max(1, lower)
    basis[lower + 1 : lower + 1 + inner, 1] = torch.arange(1, inner + 1, **FLOAT32) / max(1, inner)
    steps = _float64([exact.power(k / upper, 1.7) for k in range(1, upper + 1)])
    basis[count - upper :, 2], fixed[count - upper :] = steps, 1 - steps
    # What trained best where a quarter of the levels is one or two of them: close to the threshold.
    first = {1: (0.4, 0.5, 1.2), 2: (0.4, 2 / 3, 1.2), 3: (0.5, 0.75, 1.3)}.get(bits, (1.0, inner / (inner + 1), 1.5))
    return _ranged(
        fixed, basis, first, least=(0.05, 0.05, 1.02), most=(32.0, 0.98, 32.0), above=count - upper,
        spanning=lambda lo, hi, ranges: ranges.new_tensor((-lo, first[1], hi)),
    )  # fmt: skip


def aligned_after_reset(bits: int) -> StateQuantizer:
    """The aligned grid of a neuron that is reset at once: 0 is a level, it fires exactly at the threshold.

    Nothing above the threshold is kept, so no level lies there to tell that it fired: all 2^bits are memory. A quarter
    lies below 0, evenly down to −ranges[0]; the others evenly, and denser, from 0 up to ranges[1]; from the threshold
    to it is one gap more at first.
    """
    count = 1 << bits
    lower = count // 4
    inner = count - 1 - lower
    basis = torch.zeros(count, 2, **FLOAT64)
    basis[:lower, 0] = -torch.arange(lower, 0, -1, **FLOAT32) / max(1, lower)
    basis[lower + 1 :, 1] = torch.arange(1, inner + 1, **FLOAT32) / inner
    first = (1.0, max(0.8, inner / (inner + 1)))
    return _ranged(
        torch.zeros(count, **FLOAT64), basis, first, least=(0.05, 0.05), most=(32.0, 32.0),
        spanning=lambda lo, hi, ranges: ranges.new_tensor((-lo, first[1])),
    )  # fmt: skip


def differentiable(bits: int) -> StateQuantizer:
    """Differentiable quantization of states: α(Σ_i s_i σ(T(βu − b_i)) − o), see weight_quantizers.sum_of_sigmoids.

    Levels α · (−2^(bits−1) + 1 … 2^(bits−1)), borders midway between the integers over β. ranges: α and log(1/β).
    """
    half = 1 << (bits - 1)
    integers = torch.arange(1 - half, half + 1, **FLOAT64)
    first = 1.5 / half
    return StateQuantizer(
        torch.zeros_like(integers), torch.stack([integers, torch.zeros_like(integers)], dim=1),
        first=(first, math.log(first)), least=(first / 64, math.log(first / 64)),
        most=(first * 64, math.log(first * 64)), middles=(integers[1:] + integers[:-1]) / 2,
        spanning=lambda lo, hi, ranges: ranges.new_tensor([max(-lo, hi) / half, math.log(max(-lo, hi) / half)]),
    )  # fmt: skip


STATE_QUANTIZERS: dict[str, Callable[[int], StateQuantizer] | None] = {
    "uniform": None,
    "shared": None,
    "squat": lambda bits: squat(bits, None),
    "squat-threshold": lambda bits: squat(bits, 1.0),
    "squat-zero": lambda bits: squat(bits, 0.0),
    "aligned": aligned,
    "dq": differentiable,
}
"""By name: the table of a number of bits. Without one, levels are evenly spaced by a power of two of accumulator units:
uniform, by what spans range thresholds at first; shared, by the scale of the weights (MINT, arXiv 2305.09850)."""

AFTER_RESET: dict[str, Callable[[int], StateQuantizer] | None] = {"shared": None, "aligned": aligned_after_reset}
"""Those that hold what a reset leaves, where neurons are reset at once: they fire before they are quantized."""

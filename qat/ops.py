"""The torch reading of the arithmetic: integers ride in floats, exactly, and gradients pass straight through.

Forward, each function equals its namesake in export/fixed.py on integers below the float's exact range. Backward:
rounding passes the gradient on, saturation masks it, and firing uses a surrogate whose width is the threshold.
"""

from typing import Any

import torch
from torch import Tensor


class _RoundHalfUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x + 0.5).floor_()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class _ShiftRight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: int) -> Tensor:
        ctx.factor = 0.5**shift
        return torch.floor(x * ctx.factor + 0.5)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.factor, None


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, level: Tensor, threshold: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(level, threshold)
        ctx.slope = slope
        return (level > threshold).to(level.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        level, threshold = ctx.saved_tensors
        # On the integer grid a threshold is tens of units: distances and the slope are taken relative to it.
        width = threshold.abs().clamp(min=1e-6)
        grad = grads[0] / (width * (1 + ctx.slope * (level - threshold).abs() / width) ** 2)
        return grad, -grad.sum_to_size(threshold.shape), None


def round_half_up(x: Tensor) -> Tensor:
    """floor(x + ½), the gradient passed straight through."""
    rounded: Tensor = _RoundHalfUp.apply(x)  # type: ignore[no-untyped-call]
    return rounded


class TorchOps:
    """The `ops` of training. `slope` is that of the fast-sigmoid surrogate 1 / (1 + slope·|x|)², x = (u − θ)/θ."""

    def __init__(self, slope: float = 5.0):
        self.slope = slope

    def const(self, value: int) -> Tensor:
        return torch.tensor(float(value))

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    def sub(self, a: Tensor, b: Tensor) -> Tensor:
        return a - b

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b

    def shr(self, a: Tensor, shift: int) -> Tensor:
        return a if shift == 0 else _ShiftRight.apply(a, shift)  # type: ignore[no-untyped-call]

    def shl(self, a: Tensor, shift: int) -> Tensor:
        return a if shift == 0 else a * float(1 << shift)

    def clamp(self, a: Tensor, lo: float, hi: float) -> Tensor:
        return a.clamp(lo, hi)

    def gt(self, a: Tensor, b: Tensor) -> Tensor:
        spike: Tensor = _Fire.apply(a, b, self.slope)  # type: ignore[no-untyped-call]
        return spike

    def select(self, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return torch.where(condition != 0, a, b)

    def detach(self, a: Tensor) -> Tensor:
        return a.detach()

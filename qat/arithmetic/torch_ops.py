"""The torch reading of the arithmetic: integers ride in floats, exactly, and gradients pass straight through.

Forward, each function equals its namesake in export/base/fixed.py on integers below the float's exact range. Backward:
rounding passes the gradient on, saturation masks it, and firing has a surrogate as wide as the threshold. The
gradient of a code in a table is that of its level: STEP and LOOKUP pass it on as it is.
"""

from typing import Any

import torch
from torch import Tensor

from quantal.qat.arithmetic.exact import FLOAT32
from quantal.qat.arithmetic.grids import TableGrid
from quantal.qat.arithmetic.surrogates import Surrogate

FAST_SIGMOID = Surrogate()


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


class TorchMaths:
    """The maths of surrogates, of tensors."""

    @staticmethod
    def exp(x: Tensor) -> Tensor:
        """e^x, of x at most 0; of -20 where it is less."""
        return torch.exp(x.clamp(min=-20.0))

    @staticmethod
    def abs(x: Tensor) -> Tensor:
        """|x|."""
        return x.abs()

    @staticmethod
    def positive(x: Tensor, a: Any, b: Any) -> Tensor:
        """a where x > 0, else b."""
        return torch.where(x > 0, a, b)


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, level: Tensor, threshold: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(level, threshold)
        ctx.surrogate = surrogate
        return (level > threshold).to(level.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        level, threshold = ctx.saved_tensors
        width = threshold.abs().clamp(min=1)
        grad = ctx.surrogate.passed(TorchMaths, grads[0], level - threshold, width)
        return grad, -grad.sum_to_size(threshold.shape), None


def _sigmoids(x: Tensor, borders: Tensor, levels: Tensor, sharpness: Tensor) -> tuple[Tensor, Tensor]:
    """(the sum of sigmoids from the lowest level up, its slope); an integer border is half a unit below where v ≥ b."""
    total, slope = torch.full_like(x, float(levels[0])), torch.zeros_like(x)
    for border, gap in zip(borders.tolist(), levels.diff().tolist(), strict=True):
        sigmoid = torch.sigmoid((sharpness * (x - (border - 0.5))).clamp(-10, 10))
        total += gap * sigmoid
        slope += gap * sharpness * sigmoid * (1 - sigmoid)
    return total, slope


class _Step(torch.autograd.Function):
    """The gradient to log_reach is that of moving all borders, and with them the sharpness, apart."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, borders: Tensor, levels: Tensor, passes: str, *soft: Tensor) -> Tensor:
        ctx.save_for_backward(x, borders, levels, *soft)
        ctx.passes = passes
        return torch.bucketize(x, borders, right=True).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, borders, levels, *soft = ctx.saved_tensors
        if ctx.passes == "soft":
            passed = grads[0] * _sigmoids(x, borders, levels, soft[1])[1]
            return passed, None, None, None, -(passed * x).sum(), None
        if ctx.passes == "clip":
            return torch.where((x >= levels[0]) & (x <= levels[-1]), grads[0], 0), None, None, None
        return grads[0], None, None, None


class _SoftStep(torch.autograd.Function):
    """Gradients pass to x, to log_reach and, by what they are at the level nearest, to the levels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: TableGrid, sharpness: Tensor, levels: Tensor, log_reach: Tensor) -> Tensor:
        borders = grid.borders
        total, _ = _sigmoids(x, borders, levels, sharpness)
        _, slope = _sigmoids(x, borders, levels, grid.sharpness)
        ctx.save_for_backward(x, slope, torch.bucketize(x, borders, right=True))
        ctx.count = len(levels)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, slope, code = ctx.saved_tensors
        passed = grads[0] * slope
        return passed, None, None, _by_code(code, grads[0], ctx.count), -(passed * x).sum()


def _by_code(code: Tensor, values: Tensor, count: int) -> Tensor:
    return torch.bincount(code.flatten(), values.flatten(), minlength=count).to(values.dtype)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, code: Tensor, levels: Tensor) -> Tensor:
        where = code.to(torch.int64)
        ctx.save_for_backward(where)
        ctx.count = len(levels)
        return levels[where]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (where,) = ctx.saved_tensors
        return grads[0], _by_code(where, grads[0], ctx.count)


def round_half_up(x: Tensor) -> Tensor:
    """floor(x + ½), the gradient passed straight through."""
    rounded: Tensor = _RoundHalfUp.apply(x)  # type: ignore[no-untyped-call]
    return rounded


class TorchOps:
    """The `ops` of training, with a surrogate for what a spike's derivative is."""

    def __init__(self, surrogate: Surrogate = FAST_SIGMOID):
        self.surrogate = surrogate

    def const(self, value: int) -> Tensor:
        return torch.tensor(float(value), **FLOAT32)

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

    def step(self, a: Tensor, borders: Tensor, grid: TableGrid) -> Tensor:
        soft = (grid.log_reach, grid.sharpness) if grid.passes == "soft" else ()
        code: Tensor = _Step.apply(a, borders, grid.levels.detach(), grid.passes, *soft)  # type: ignore[no-untyped-call]
        return code

    def soft_step(self, a: Tensor, grid: TableGrid, sharpness: Tensor) -> Tensor:
        soft: Tensor = _SoftStep.apply(a, grid, sharpness, grid.levels, grid.log_reach)  # type: ignore[no-untyped-call]
        return soft

    def lookup(self, a: Tensor, levels: Tensor) -> Tensor:
        level: Tensor = _Lookup.apply(a, levels)  # type: ignore[no-untyped-call]
        return level

    def clamp(self, a: Tensor, lo: float, hi: float) -> Tensor:
        return a.clamp(lo, hi)

    def gt(self, a: Tensor, b: Tensor) -> Tensor:
        spike: Tensor = _Fire.apply(a, b, self.surrogate)  # type: ignore[no-untyped-call]
        return spike

    def select(self, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return torch.where(condition != 0, a, b)

    def detach(self, a: Tensor) -> Tensor:
        return a.detach()

    def called(self, label: str, a: Tensor) -> Tensor:
        """The same: labels are for what is emitted."""
        return a

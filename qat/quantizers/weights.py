"""Weight quantizers: from real weights to integer levels. To add one: a class, and its row in WEIGHT_QUANTIZERS.

All are symmetric with zero point 0: weight = scale · level. The scale belongs to the layer, where it folds into the
thresholds; where levels change is a quantizer's own: at multiples of the scale, or of a reach learned beside it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantal.qat.arithmetic.exact import INT64, row_sums
from quantal.qat.arithmetic.torch_ops import round_half_up
from quantal.qat.quantizers.calibration import kmeans_borders, mquant, tquant

_LEAST_REACH = 1e-8
"""A row of zeros fits any reach."""


class WeightQuantizer(nn.Module, ABC):
    """What a layer asks of a weight quantizer; `bits` are those of a code.

    levels: the integers that it gives, ascending, in [−128, 127]; empty where they are all those between two ends.
    coarse: all of them are multiples of 2^coarse. standardizes: its weights are `standardized` before they come to it.
    """

    levels: tuple[int, ...] = ()
    coarse = 0
    standardizes = False

    def __init__(self, bits: int):
        super().__init__()
        self.bits = bits

    @property
    def table(self) -> tuple[int, ...]:
        """What codes stand for, where they are not the levels themselves, as all integers between two ends are."""
        return () if self.levels == tuple(range(-len(self.levels) // 2 + 1, len(self.levels) // 2 + 1)) else self.levels

    @abstractmethod
    def first_scale(self, w: Tensor) -> Tensor:
        """The scale to start from, (rows, 1), for weights (rows, fan_in)."""

    def begin(self, w: Tensor, per_row: bool) -> None:
        """Makes the quantizer's own parameters, one a row or one for all, for the weights that training starts from."""

    def project(self) -> None:
        """Brings its parameters back to where they mean something, after an optimizer's step."""

    @abstractmethod
    def codes(self, w: Tensor, scale: Tensor, shift: int) -> Tensor:
        """The levels of weights (rows, fan_in), worth scale · 2^shift each; scale (rows, 1) or (1, 1)."""


class FullPrecision(WeightQuantizer):
    """The weights themselves: for comparison, not for export. Its unit is 2^−16, fine enough for any state grid."""

    def first_scale(self, w: Tensor) -> Tensor:
        """See WeightQuantizer."""
        return w.new_full((len(w), 1), 2.0**-16)

    def codes(self, w: Tensor, scale: Tensor, shift: int) -> Tensor:
        """See WeightQuantizer."""
        return w * (1 / (scale * 2.0**shift))


class Lsq(WeightQuantizer):
    """Levels −Q … Q, Q = 2^(bits−1) − 1, rounded half up; 2 bits hold {−1, 0, 1}, 1 bit ±1, the sign, 0 being +1.

    Learned Step Size Quantization, arXiv 1902.08153: gradients pass straight through inside the range and are cut
    elsewhere, so that a scale that clips learns to grow. It starts at 2·mean|w|/√Q (§2.1). The paper divides its
    gradient by √(count·Q); under Adam, whose steps do not depend on a gradient's size, that changes nothing.
    """

    def __init__(self, bits: int):
        super().__init__(bits)
        self.limit = (1 << (bits - 1)) - 1 or 1
        self.levels = (-1, 1) if bits == 1 else ()

    def first_scale(self, w: Tensor) -> Tensor:
        """See WeightQuantizer."""
        return w.abs().mean(dim=1, keepdim=True) * (2 / math.sqrt(self.limit))

    def codes(self, w: Tensor, scale: Tensor, shift: int) -> Tensor:
        """See WeightQuantizer."""
        return self._rounded(w * (1 / (scale * 2.0**shift)))

    def _rounded(self, w: Tensor) -> Tensor:
        if self.bits == 1:
            return 2 * round_half_up((w.clamp(-1, 1) + 1) / 2).clamp(max=1) - 1
        return round_half_up(functional.hardtanh(w, -self.limit, self.limit))


class Learned(WeightQuantizer):
    """LSQ at a width that is settled while it trains, see allocation.py.

    Levels are nested: in units of the scale of 8 bits, b bits have the multiples of 2^(8−b). So all widths span one
    range, and the scale is inherited.
    """

    widths = (2, 4, 8)  # those that pack without a gap
    width: Tensor

    def __init__(self) -> None:
        super().__init__(8)
        self.register_buffer("width", torch.tensor(8, **INT64))

    @property
    def coarse(self) -> int:  # type: ignore[override]
        """See WeightQuantizer."""
        return 8 - int(self.width)

    def first_scale(self, w: Tensor) -> Tensor:
        """See WeightQuantizer."""
        return Lsq(4).first_scale(w) / 16  # the middle width starts as LSQ does

    def codes(self, w: Tensor, scale: Tensor, shift: int) -> Tensor:
        """See WeightQuantizer."""
        return self.codes_at(int(self.width), w, scale, shift)

    def codes_at(self, width: int, w: Tensor, scale: Tensor, shift: int) -> Tensor:
        """The levels of that width."""
        unit = 2.0 ** (8 - width)
        return unit * Lsq(width).codes(w, scale * unit, shift)


class MaQD(Lsq):
    """Weight standardization, then the scaled round-clip with M = 2^bits − 1 states (arXiv 2403.14999)."""

    standardizes = True


def standardized(w: Tensor) -> Tensor:
    """(w − mean) / √(fan_in · variance + 10⁻⁴), row by row: (rows, fan_in) → the same.

    So a row's variance becomes 1 / fan_in. Axes and constants are a reconstruction: the paper does not give them.
    """
    centred = w.double() - row_sums(w) / w.shape[1]
    return (centred / torch.sqrt(row_sums(centred.square()) + 1e-4)).to(w.dtype)


class _Reaching(WeightQuantizer):
    """Levels change at borders · reach, and the reach is learned beside the scale."""

    reach_start: Tensor

    def _begin(self, reach: Tensor, per_row: bool) -> None:
        reach = reach.clamp(min=_LEAST_REACH)
        start = reach if per_row else reach.mean(dim=0, keepdim=True)
        self.register_buffer("reach_start", start)
        self.reach_gain = nn.Parameter(torch.ones_like(start))

    def project(self) -> None:
        """See WeightQuantizer."""
        self.reach_gain.clamp_(min=1 / 64)

    def reached(self, w: Tensor, shift: int) -> Tensor:
        """Weights in units of the reach."""
        return w * (1 / (self.reach_start * self.reach_gain * 2.0**shift))


class Ternary(_Reaching):
    """{−1, 0, 1}, that change at ±Δ = ±reach/2 and are worth the scale, both learned.

    They start as arXiv 2306.17442 has them: TQuant, Δ = max|w|/3; MQuant, the Δ that gives the three levels equal mass;
    scale = mean of |w| above Δ. Gradients pass straight through inside ±reach.
    """

    def __init__(self, bits: int, rule: Callable[..., tuple[Tensor, Tensor]]):
        super().__init__(bits)
        self.rule = rule

    def first_scale(self, w: Tensor) -> Tensor:
        """See WeightQuantizer."""
        return self.rule(w, per_row=True)[1]

    def begin(self, w: Tensor, per_row: bool) -> None:
        """See WeightQuantizer."""
        self._begin(2 * self.rule(w, per_row=True)[0], per_row)

    def codes(self, w: Tensor, scale: Tensor, shift: int) -> Tensor:
        """See WeightQuantizer."""
        return round_half_up(functional.hardtanh(self.reached(w, shift), -1, 1))


class _SumOfSigmoids(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, borders: Tensor, gaps: Tensor, sharpness: float, soft: bool) -> Tensor:
        total, slope = torch.zeros_like(x), torch.zeros_like(x)
        for border, gap in zip(borders.tolist(), gaps.tolist(), strict=True):  # one at a time: no memory for all
            sigmoid = torch.sigmoid((sharpness * (x - border)).clamp(-10, 10))
            slope += (gap * sharpness) * sigmoid * (1 - sigmoid)
            total += gap * (sigmoid if soft else (x > border).to(x.dtype))
        ctx.save_for_backward(slope)
        return total - gaps.sum() / 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return grads[0] * slope, None, None, None, None


def sum_of_sigmoids(x: Tensor, borders: Tensor, gaps: Tensor, sharpness: float, soft: bool) -> Tensor:
    """Σ_i s_i σ(T(x − b_i)) − ½Σs_i, elementwise, its argument kept within ±10; s_i gaps, b_i borders, T sharpness.

    Not soft: the same with a step, strict as x > b_i, in place of σ. The gradient is the sum's, T Σ s_i σ_i(1 − σ_i),
    either way. Quantization Networks, arXiv 1911.09464, eq. 4; spiking networks: arXiv 2305.19295.
    """
    total: Tensor = _SumOfSigmoids.apply(x, borders, gaps, sharpness, soft)  # type: ignore[no-untyped-call]
    return total


class Differentiable(_Reaching):
    """Differentiable quantization (see `sum_of_sigmoids`): α is the scale, 1/β the reach, both learned.

    The reach starts at max|w| / (5/4 · highest level), the scale where its codes have the least squared error. Borders
    lie midway between levels, or between the K-means clusters of the first weights where these have as many values,
    and then stay. In training the forward is hard, or soft as published; deployed it is hard. `sharpness` is T.
    """

    soft, sharpness = False, 10.0
    borders: Tensor
    gaps: Tensor

    def __init__(self, bits: int, levels: tuple[int, ...], clustered: bool):
        super().__init__(bits)
        self.levels, self.clustered = levels, clustered

    def _first_reach(self, w: Tensor) -> Tensor:
        return (w.abs().amax(dim=1, keepdim=True) / (1.25 * self.levels[-1])).clamp(min=_LEAST_REACH)

    def first_scale(self, w: Tensor) -> Tensor:
        """See WeightQuantizer."""
        codes = sum_of_sigmoids(w / self._first_reach(w), self.borders, self.gaps, self.sharpness, soft=False)
        squares = codes.square().sum(1, keepdim=True)
        return torch.where(squares > 0, (w * codes).sum(1, keepdim=True) / squares, 0.0)  # of zeros there are none

    def begin(self, w: Tensor, per_row: bool) -> None:
        """See WeightQuantizer."""
        self._begin(self._first_reach(w), per_row)
        levels = w.new_tensor(self.levels)
        borders = (levels[1:] + levels[:-1]) / 2
        reached = self.reached(w, 0).detach()
        both = torch.cat([reached, -reached])  # levels lie alike on both sides of 0, so must the clusters
        if self.clustered and len(set(both.flatten().tolist())) >= len(levels):
            found = kmeans_borders(both, len(levels))
            borders = (found - found.flip(0)) / 2
        self.register_buffer("borders", borders)
        self.register_buffer("gaps", levels.diff(), persistent=False)

    def codes(self, w: Tensor, scale: Tensor, shift: int) -> Tensor:
        """See WeightQuantizer."""
        soft = self.soft and self.training
        return sum_of_sigmoids(self.reached(w, shift), self.borders, self.gaps, self.sharpness, soft)


def _even(bits: int) -> tuple[int, ...]:
    limit = (1 << (bits - 1)) - 1
    return tuple(range(-limit, limit + 1)) if bits > 1 else (-1, 1)


def _powers(bits: int) -> tuple[int, ...]:
    # The 2^(bits−1) − 1 least of 1, 2, 4, … in between which 4 bits have also 3, 6, 12: two powers of two at most.
    above = {2: (1,), 3: (1, 2, 4), 4: (1, 2, 3, 4, 6, 8, 12)}[bits]
    return (*(-level for level in reversed(above)), 0, *above)


WEIGHT_QUANTIZERS: dict[str, tuple[Callable[[int], WeightQuantizer], range]] = {
    "lsq": (Lsq, range(1, 9)),
    "maqd": (MaQD, range(2, 9)),
    "tquant": (lambda bits: Ternary(bits, tquant), range(2, 3)),
    "mquant": (lambda bits: Ternary(bits, mquant), range(2, 3)),
    "dq": (lambda bits: Differentiable(bits, _even(bits), clustered=False), range(1, 9)),
    "dq-kmeans": (lambda bits: Differentiable(bits, _even(bits), clustered=True), range(1, 9)),
    "dq-power": (lambda bits: Differentiable(bits, _powers(bits), clustered=False), range(2, 5)),
}
"""By name: how one is made, and the bits that it comes in."""

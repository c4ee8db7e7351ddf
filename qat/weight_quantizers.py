"""Weight quantizers: from real weights, in units of their scale, to integer codes. To add one: a class, and its row.

All are symmetric with zero point 0. Gradients pass straight through inside the range and are cut elsewhere, so a
scale that clips learns to grow.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn import functional

from qat.ops import round_half_up


class WeightQuantizer(Protocol):
    """What a layer asks of a weight quantizer."""

    def codes(self, w: Tensor) -> Tensor:
        """The integer codes, in [−128, 127], of weights in units of their scale."""
        ...

    def initial_scale(self, mean: Tensor) -> Tensor:
        """The scale to start from, given mean|w|."""
        ...


@dataclass(frozen=True)
class Uniform:
    """Codes −Q … Q, Q = 2^(bits−1) − 1, rounded half up. 2 bits hold {−1, 0, 1}.

    The scale starts at 2·mean|w|/√Q (Learned Step Size Quantization, arXiv 1902.08153, §2.1).
    """

    bits: int

    @property
    def limit(self) -> int:
        """Q."""
        return (1 << (self.bits - 1)) - 1

    def codes(self, w: Tensor) -> Tensor:
        """See WeightQuantizer."""
        return round_half_up(functional.hardtanh(w, -self.limit, self.limit))

    def initial_scale(self, mean: Tensor) -> Tensor:
        """See WeightQuantizer."""
        return mean * (2 / math.sqrt(self.limit))


@dataclass(frozen=True)
class Ternary(Uniform):
    """{−1, 0, 1}, as 2 bits, but the scale starts where codes change at 0.7·mean|w| (arXiv 1605.04711, eq. 6)."""

    bits: int = 2

    def initial_scale(self, mean: Tensor) -> Tensor:
        """See WeightQuantizer."""
        return mean * 1.4


@dataclass(frozen=True)
class Binary:
    """±1: the sign, 0 counting as +1. The scale starts at 2·mean|w|, where few weights are cut off from gradients."""

    def codes(self, w: Tensor) -> Tensor:
        """See WeightQuantizer."""
        return 2 * round_half_up((w.clamp(-1, 1) + 1) / 2).clamp(max=1) - 1

    def initial_scale(self, mean: Tensor) -> Tensor:
        """See WeightQuantizer."""
        return mean * 2


@dataclass(frozen=True)
class FullPrecision:
    """The weights themselves: for comparison, not for export. Its unit is 2^−16, fine enough for any state grid."""

    def codes(self, w: Tensor) -> Tensor:
        """See WeightQuantizer."""
        return w

    def initial_scale(self, mean: Tensor) -> Tensor:
        """See WeightQuantizer."""
        return mean * 0 + 2.0**-16


WEIGHT_QUANTIZERS: dict[int | str, WeightQuantizer] = {
    1: Binary(),
    **{bits: Uniform(bits) for bits in range(2, 9)},
    "ternary": Ternary(),
    "float": FullPrecision(),
}

"""Surrogate gradients: what the derivative of a spike by its membrane is taken to be. To add one: a function, a row.

Each is a function of the gradient g that it passes on, of d = U − θ, of w = |θ|, as a threshold is tens of units on the
integer grid, and of the slope k. It is written once against `maths`, which torch evaluates (ops.py) and the fused
engines spell out (adjoint.py): exp of what is at most 0, abs, and positive(x, a, b), which is a where x > 0, else b.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def fast_sigmoid(maths: Any, g: Any, d: Any, w: Any, k: float) -> Any:
    """1 / (1 + k|x|)², x = d/w (SuperSpike, arXiv 1705.11146)."""
    s = w + k * maths.abs(d)
    return g * w / (s * s)


def arctan(maths: Any, g: Any, d: Any, w: Any, k: float) -> Any:
    """1 / (1 + (π/2 · kx)²), x = d/w (arXiv 2007.05785)."""
    s = (math.pi / 2 * k) * d
    return g * w / (w * w + s * s)


def triangular(maths: Any, g: Any, d: Any, w: Any, k: float) -> Any:
    """max(0, 1 − k|x|), x = d/w: 0 from one k-th of the threshold away (arXiv 1803.09574)."""
    s = w - k * maths.abs(d)
    return g * maths.positive(s, s, 0.0 * s) / (w * w)


def s2nn(maths: Any, g: Any, d: Any, w: Any, k: float) -> Any:
    """Below the threshold kσ(kx)(1 − σ(kx)), above it k/4 / (1 + x), x = d/w (S²NN, arXiv 2201.10879, α = 4β = k)."""
    size = maths.abs(d)
    tail = maths.exp(-k * size / w)
    below = k * tail / ((1 + tail) * (1 + tail))
    return g * maths.positive(d, k / 4 * w / (w + size), below) / w


def multi_gaussian(maths: Any, g: Any, d: Any, w: Any, k: float) -> Any:
    """½((1 + h)N(x; 0, σ) − hN(x; σ, sσ) − hN(x; −σ, sσ)), h = 0.15, s = 6, σ = 1/k, x = d/w (arXiv 2103.12593)."""
    h, s = 0.15, 6.0
    x = k * d / w
    height = k / math.sqrt(8 * math.pi)

    def bell(z: Any) -> Any:
        return maths.exp(-0.5 * z * z)

    return g * height * ((1 + h) * bell(x) - h / s * (bell((x - 1) / s) + bell((x + 1) / s))) / w


_SHAPES: dict[str, Callable[[Any, Any, Any, Any, float], Any]] = {
    "fast-sigmoid": fast_sigmoid,
    "arctan": arctan,
    "triangular": triangular,
    "s2nn": s2nn,
    "multi-gaussian": multi_gaussian,
}
SURROGATES = tuple(_SHAPES)


@dataclass(frozen=True)
class Surrogate:
    """One of SURROGATES, with its slope, times the damping (γ of arXiv 1803.09574), below 1 for gradients in loops."""

    name: str = "fast-sigmoid"
    slope: float = 5.0
    damping: float = 1.0

    def passed(self, maths: Any, g: Any, d: Any, w: Any) -> Any:
        """What [d > 0] passes on to d of a gradient g, w being at least 1."""
        return _SHAPES[self.name](maths, self.damping * g, d, w, self.slope)

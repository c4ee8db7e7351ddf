"""The arithmetic, defined once: integer vectors (numpy int64) in, integer vectors out.

Integers are two's complement, the right shift is arithmetic, and the one rounding rule is half up. Every other
reading of these functions (torch, C, ONNX, the emitted simulator) is tested against this page.
"""

import numpy as np
from fxpmath import Fxp
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def shr(x: Ints, shift: int) -> Ints:
    """Right shift, rounding half up: floor((x + 2^(s-1)) / 2^s) for s > 0, x for s = 0."""
    return x if shift == 0 else (x + (1 << (shift - 1))) >> shift


def shl(x: Ints, shift: int) -> Ints:
    """x · 2^s."""
    return x << shift


def clamp(x: Ints, lo: int, hi: int) -> Ints:
    """x, saturated to [lo, hi]."""
    return np.clip(x, lo, hi)


def gt(a: Ints, b: Ints) -> Ints:
    """1 where a > b, strictly, else 0."""
    return (a > b).astype(np.int64)


def select(condition: Ints, a: Ints, b: Ints) -> Ints:
    """a where the condition is not 0, else b."""
    return np.where(condition != 0, a, b)


def step(x: Ints, borders: Ints) -> Ints:
    """The step-function encoder: how many of the sorted borders lie at or below x (0 … len(borders))."""
    return np.searchsorted(borders, x, side="right").astype(np.int64)


def lookup(code: Ints, levels: Ints) -> Ints:
    """The step-function decoder: levels[code]."""
    return levels[code]


def bits_for(lo: int, hi: int) -> tuple[bool, int]:
    """(signed, word length) of the smallest two's complement or unsigned word that holds [lo, hi]."""
    signed = lo < 0
    bits = max((~lo).bit_length() if signed else 0, max(hi, 0).bit_length()) + signed
    return signed, max(bits, 1)


def dtype_name(lo: int, hi: int, fraction: int = 0) -> str:
    """fxpmath's name of the format that holds [lo, hi] with `fraction` fractional bits, e.g. fxp-s8/0."""
    signed, bits = bits_for(lo, hi)
    return str(Fxp(None, signed=signed, n_word=bits, n_frac=fraction).dtype)

"""What decides an integer is computed alike on every machine, whatever the user's process asks of torch.

Single additions, products, quotients and square roots of floats are alike everywhere. Sums differ by their order,
logarithms and powers by the library, and products of matrices by what torch is allowed to round.
"""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import ROUND_HALF_EVEN, Context, Decimal, DivisionByZero, InvalidOperation, Overflow
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from quantal.export.base.errors import BadInput

_BACKENDS = (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
_BY_BACKEND = all(hasattr(backend, "fp32_precision") for backend in _BACKENDS)  # since torch 2.9

FLOAT32: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
FLOAT64: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
INT64: dict[str, Any] = {"dtype": torch.int64, "device": "cpu"}
"""What a tensor is made of, and where: torch.set_default_dtype and torch.set_default_device are the user's."""

Precision = tuple[str, ...]
EXACT: Precision = ("ieee", "ieee") if _BY_BACKEND else ("highest",)


def precision() -> Precision:
    """How torch may round the factors of a product of float32: a word for each setting there is."""
    if _BY_BACKEND:
        return tuple(str(backend.fp32_precision) for backend in _BACKENDS)  # type: ignore[union-attr]
    return (torch.get_float32_matmul_precision(),)


def _set(words: Precision) -> None:
    if _BY_BACKEND:
        for backend, word in zip(_BACKENDS, words, strict=True):
            backend.fp32_precision = word  # type: ignore[union-attr]
    else:
        torch.set_float32_matmul_precision(words[0])


class _Pinned:
    """Exact products for as long as any thread is inside: the last to leave puts back what the first has found.

    The settings are the process's. A thread that put back what it had found itself would take exactness from those
    that still multiply, or leave theirs to the user.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._found = threading.Lock(), 0, EXACT

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._found = precision()
            _set(EXACT)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                _set(self._found)


_PINNED = _Pinned()


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Multiplies float32 as float32 on that device; afterwards everything is set as it was.

    torch.set_float32_matmul_precision and its newer siblings let torch round factors to TF32 or bfloat16, and autocast
    makes bfloat16 or float16 of them.
    """
    with _PINNED, torch.autocast(device.type, enabled=False):
        yield


_ONE, _EPSILON = 1.0, 2.0**-52


def check_rounding() -> None:
    """Raises BadInput unless this thread's floats are rounded to nearest, as they are unless C's fesetround is called.

    Down or to zero, 1 + ¾ε would be 1; up, 1 + ¼ε would be more.
    """
    if not _ONE + 0.75 * _EPSILON > _ONE == _ONE + 0.25 * _EPSILON:
        raise BadInput("floating point: expected rounding to nearest, but a library has set another mode: fesetround")


def row_sums(x: Tensor) -> Tensor:
    """x (rows, n) → the sum of each row, (rows, 1), in float64: its second half added to its first, and so on."""
    x = x.double()
    while (n := x.shape[1]) > 1:
        half = (n + 1) // 2
        x = x[:, :half] + functional.pad(x[:, half:], (0, 2 * half - n))
    return x


_DECIMALS = Context(
    prec=28, rounding=ROUND_HALF_EVEN, Emin=-999999, Emax=999999, capitals=1, clamp=0, flags=[],
    traps=[InvalidOperation, DivisionByZero, Overflow],
)  # fmt: skip
"""Ours alone: a thread's own context, and what new ones are made of, are the user's to change."""


def exp(x: float) -> float:
    """e^x, rounded once."""
    return float(_DECIMALS.exp(Decimal.from_float(x)))


def power(x: float, y: float) -> float:
    """x^y, of x at least 0, in decimals."""
    return float(_DECIMALS.power(Decimal.from_float(x), Decimal.from_float(y)))


def nearest_exponent(x: float) -> int:
    """The integer nearest log₂ x."""
    mantissa, exponent = math.frexp(x)  # x = mantissa · 2^exponent, ½ ≤ mantissa < 1
    return exponent if mantissa * mantissa > 0.5 else exponent - 1

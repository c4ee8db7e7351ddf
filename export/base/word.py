"""The machine words that integers are kept in."""

from dataclasses import dataclass

import numpy as np

from quantal.export.base.errors import BadInput

BITS = (8, 16, 32)


@dataclass(frozen=True)
class Word:
    """A two's complement word where signed, else an unsigned one."""

    signed: bool
    bits: int

    @classmethod
    def holding(cls, lo: int, hi: int) -> "Word":
        """The smallest word that holds [lo, hi]: of 32 bits the signed one, which every proven value fits."""
        for bits in BITS:
            word = cls(lo < 0 or bits == BITS[-1], bits)
            if word.lo <= lo and hi <= word.hi:
                return word
        raise BadInput(f"[{lo}, {hi}] does not fit in {BITS[-1]} bits")

    @property
    def lo(self) -> int:
        """The least integer that it holds."""
        return -(1 << self.bits - 1) if self.signed else 0

    @property
    def hi(self) -> int:
        """The greatest."""
        return (1 << self.bits - self.signed) - 1

    @property
    def bytes(self) -> int:
        """How long it is."""
        return self.bits // 8

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The same in numpy, little-endian."""
        return np.dtype(f"<{'i' if self.signed else 'u'}{self.bytes}")

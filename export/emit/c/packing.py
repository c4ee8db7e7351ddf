"""How weights lie in the header, and how many bytes they take: what the emitter writes, and what a budget counts."""

from dataclasses import dataclass

import numpy as np

from quantal.export.base.fixed import Ints
from quantal.export.base.word import Word

WIDTHS = (1, 2, 4, 8)
"""The bits of a code that fill a byte without a gap."""


@dataclass(frozen=True)
class Packing:
    """`rows` rows, each of `count` codes of `bits` bits in whole bytes."""

    rows: int
    count: int
    bits: int

    @property
    def bytes(self) -> int:
        """What all rows take."""
        return self.rows * -(-self.count * self.bits // 8)


def packing(neurons: int, inputs: int, bits: int, groups: int = 0) -> Packing:
    """That of a matrix (neurons × inputs of a row) whose codes need `bits` bits.

    Of a dense layer (groups 0) a row is an input's, and its last byte is filled up. Of a convolution, whose neurons are
    channels, a row is one channel's and place's, with the outputs of its group; another sum follows the last one, so
    that such a row has whole bytes: of wider codes where need be.
    """
    rows, count = (inputs * groups, neurons // groups) if groups else (inputs, neurons)
    wide = next(b for b in WIDTHS if b >= bits and (not groups or count * b % 8 == 0))
    return Packing(rows, count, wide)


def by_group(codes: Ints, groups: int) -> Ints:
    """The codes of a convolution (channels out × inputs of a row) as (outputs of a group × rows of its packing)."""
    share = codes.reshape(groups, len(codes) // groups, -1)
    return share.transpose(1, 0, 2).reshape(share.shape[1], -1)


def code_bits(codes: Ints, *, signed: bool) -> int:
    """The least of WIDTHS that holds all codes, in two's complement where they are signed."""
    lo, hi = int(codes.min()), int(codes.max())
    return next(b for b in WIDTHS if (-(1 << b >> 1) <= lo and hi < 1 << b >> 1 if signed else hi < 1 << b))


def packed(codes: Ints, bits: int) -> Ints:
    """The bytes of each input's row, from codes (neurons × inputs): the first neuron's code in the lowest bits.

    The last neuron's code is repeated to the end of the last byte. Codes of 8 bits stay what they are.
    """
    if bits == 8:
        return codes.T
    per_byte = 8 // bits
    filled = np.pad(codes.T, ((0, 0), (0, -len(codes) % per_byte)), mode="edge") & ((1 << bits) - 1)
    whole: Ints = (filled.reshape(len(filled), -1, per_byte) << (bits * np.arange(per_byte))).sum(axis=2)
    return whole


def table_size(levels: int, bits: int) -> int:
    """How many entries a table of `levels` levels has for packed codes of `bits` bits.

    Whatever the bits of a code are, they lie within the table; codes of 8 bits are levels of it.
    """
    return levels if bits == 8 else 1 << bits


def table_bytes(count: int, lo: int, hi: int) -> int:
    """What `count` constants in [lo, hi] take, in words that hold them; a single one stands in the code instead."""
    return count * Word.holding(lo, hi).bytes if count > 1 else 0

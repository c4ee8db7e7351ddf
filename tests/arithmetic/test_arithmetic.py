"""The arithmetic of export/base/fixed.py: fxpmath is its independent witness, and torch's reading equals it exactly."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
from fxpmath import Fxp
from hypothesis import given
from hypothesis import strategies as st

from quantal.export.base import fixed
from quantal.export.base.fixed import Ints
from quantal.qat.arithmetic.torch_ops import TorchOps, round_half_up

ALL = np.arange(-(2**15), 2**15)  # every signed 16-bit value
SHIFTS = range(32)
WORDS = range(2, 17)
INT32 = st.integers(-(2**31), 2**31 - 1)
OPS = TorchOps()
WIDE = {"overflow": "wrap"}  # where the word is wide enough never to overflow: saturation costs fxpmath 25 times more


def on_fine_grid(x: Ints, shift: int) -> Fxp:
    """x · 2^−shift + ½ in fxpmath, with all its fractional bits: flooring it rounds half up."""
    half = (1 << shift) >> 1
    return Fxp(x + half, signed=True, n_word=48, n_frac=shift, raw=True, rounding="floor", **WIDE)


def factors(k: int) -> list[int]:
    """Decay factors m < 2^k: the edges, the middle, all pure shift leaks, and some at random."""
    top = 1 << k
    edges = {0, 1, 2, 3, top // 2 - 1, top // 2, top // 2 + 1, top - 3, top - 2, top - 1}
    leaks = {top - (1 << (k - a)) for a in range(k + 1)}
    return sorted(m for m in edges | leaks | set(np.random.default_rng(k).integers(0, top, 8)) if 0 <= m < top)


# ---- fxpmath against fixed.py


@pytest.mark.parametrize("shift", SHIFTS)
def test_right_shift_is_fxpmaths_floor_of_x_plus_a_half(shift: int) -> None:
    witness = on_fine_grid(ALL, shift)
    witness.resize(n_word=48, n_frac=0)
    assert np.array_equal(fixed.shr(ALL, shift), witness.raw())


@pytest.mark.parametrize("shift", SHIFTS)
def test_left_shift_is_fxpmaths_product_with_a_power_of_two(shift: int) -> None:
    witness = Fxp(ALL, signed=True, n_word=16, n_frac=0, **WIDE) * Fxp(1 << shift, signed=False, n_word=32, n_frac=0)
    assert np.array_equal(fixed.shl(ALL, shift), witness.raw())


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("word", WORDS)
def test_clamp_is_fxpmaths_saturation(word: int, signed: bool) -> None:
    lo, hi = (-(1 << (word - 1)), (1 << (word - 1)) - 1) if signed else (0, (1 << word) - 1)
    witness = Fxp(ALL, signed=signed, n_word=word, n_frac=0, overflow="saturate")
    assert np.array_equal(fixed.clamp(ALL, lo, hi), witness.raw())


@pytest.mark.parametrize("k", range(1, 13))
def test_decay_is_fxpmaths_product_rounded_half_up(k: int) -> None:
    u = Fxp(ALL, signed=True, n_word=16, n_frac=0, **WIDE)
    half = Fxp(0.5, signed=False, n_word=1, n_frac=1)
    for m in factors(k):
        exact = u * Fxp(int(m), signed=False, n_word=k, n_frac=k, raw=True) + half
        witness = Fxp(exact, signed=True, n_word=20, n_frac=0, rounding="floor", **WIDE)
        assert np.array_equal(fixed.shr(ALL * m, k), witness.raw()), m


@pytest.mark.parametrize("word", WORDS)
def test_a_power_of_two_grid_as_a_table_is_shr_and_clamp_and_fxpmaths_quantizer(word: int) -> None:
    lo, hi = -(1 << (word - 1)), (1 << (word - 1)) - 1
    levels = np.arange(lo, hi + 1)
    for shift in range(17):
        borders = levels[1:] * (1 << shift) - ((1 << shift) >> 1)
        table = fixed.lookup(fixed.step(ALL, borders), levels)
        assert np.array_equal(table, fixed.clamp(fixed.shr(ALL, shift), lo, hi)), shift
        if shift in (0, 1, 16 - word):
            fine = on_fine_grid(ALL, shift)
            witness = Fxp(fine, signed=True, n_word=word, n_frac=0, rounding="floor", overflow="saturate")
            assert np.array_equal(table, witness.raw()), shift


@given(INT32, INT32, st.integers(-31, 31))
def test_dtype_name_is_the_smallest_fxpmath_format_that_holds_the_interval(a: int, b: int, fraction: int) -> None:
    lo, hi = min(a, b), max(a, b)
    name = fixed.dtype_name(lo, hi, fraction)
    ends = {"val": [lo, hi], "raw": True, "overflow": "saturate"}
    word = Fxp(**ends, dtype=name)
    assert (word.signed, word.n_frac) == (lo < 0, fraction)
    assert word.raw().tolist() == [lo, hi]
    if word.n_word > 1:
        less = Fxp(**ends, signed=word.signed, n_word=word.n_word - 1, n_frac=fraction)
        assert less.raw().tolist() != [lo, hi]


@pytest.mark.parametrize(
    ("lo", "hi", "name"),
    [(0, 0, "fxp-u1/0"), (0, 1, "fxp-u1/0"), (-1, 0, "fxp-s1/0"), (-1, 1, "fxp-s2/0"), (-128, 127, "fxp-s8/0")],
)
def test_dtype_name_spells_the_format_as_fxpmath_does(lo: int, hi: int, name: str) -> None:
    assert fixed.dtype_name(lo, hi) == name


# ---- plain definitions against fixed.py


@given(INT32, st.integers(0, 31))
def test_right_shift_is_the_floor_of_the_fraction_plus_a_half(x: int, shift: int) -> None:
    assert fixed.shr(np.array([x]), shift)[0] == floor(Fraction(x, 2**shift) + (Fraction(1, 2) if shift else 0))


def test_bits_for_is_the_smallest_word_for_every_small_interval() -> None:
    for lo in range(-70, 71):
        for hi in range(lo, 71):
            bits = 1
            while not (-(1 << (bits - 1)) <= lo and hi < 1 << (bits - 1) if lo < 0 else hi < 1 << bits):
                bits += 1
            assert fixed.bits_for(lo, hi) == (lo < 0, bits), (lo, hi)


@given(st.sets(st.integers(-300, 300), min_size=1, max_size=20), st.integers(0, 2**32))
def test_step_counts_the_borders_at_or_below_and_lookup_reads_the_level(borders: set[int], seed: int) -> None:
    levels = np.random.default_rng(seed).integers(-(2**31), 2**31, len(borders) + 1)
    x = np.arange(-310, 311)
    codes = fixed.step(x, np.array(sorted(borders)))
    assert codes.tolist() == [sum(border <= v for border in borders) for v in x]
    assert fixed.lookup(codes, levels).tolist() == [levels[code] for code in codes]


# ---- torch against fixed.py


def floats(x: Ints) -> torch.Tensor:
    return torch.from_numpy(x).to(torch.float32)


@pytest.mark.parametrize("shift", SHIFTS)
def test_torch_shifts_equal_fixed_in_float32(shift: int) -> None:
    assert np.array_equal(OPS.shr(floats(ALL), shift).numpy(), fixed.shr(ALL, shift))
    assert np.array_equal(OPS.shl(floats(ALL), shift).numpy().astype(np.int64), fixed.shl(ALL, shift))


@pytest.mark.parametrize("shift", range(25))
def test_torch_right_shift_is_exact_up_to_the_last_integers_of_float32(shift: int) -> None:
    edges = [2**24 - 1, 2**23, *((1 << shift) * odd >> 1 for odd in range(1, 64, 2))]
    x = np.unique([sign * edge + d for edge in edges for sign in (-1, 1) for d in range(-40, 41)])
    x = x[abs(x) < 2**24]
    assert np.array_equal(OPS.shr(floats(x), shift).numpy(), fixed.shr(x, shift))


@pytest.mark.parametrize("word", WORDS)
def test_torch_clamp_equals_fixed(word: int) -> None:
    lo, hi = -(1 << (word - 1)), (1 << (word - 1)) - 1
    assert np.array_equal(OPS.clamp(floats(ALL), lo, hi).numpy(), fixed.clamp(ALL, lo, hi))


@pytest.mark.parametrize("other", [-(2**15), -129, -1, 0, 1, 2, 254, 2**15 - 1])
def test_torch_gt_select_and_sums_equal_fixed(other: int) -> None:
    b = np.full_like(ALL, other)
    above = fixed.gt(ALL, b)
    assert np.array_equal(above, [int(x > other) for x in ALL.tolist()])  # strictly
    assert np.array_equal(OPS.gt(floats(ALL), floats(b)).numpy(), above)
    assert np.array_equal(OPS.gt(floats(b), floats(ALL)).numpy(), fixed.gt(b, ALL))
    for condition in (above, ALL - other):  # anything but 0 selects a
        chosen = OPS.select(floats(condition), floats(ALL), floats(b)).numpy()
        assert np.array_equal(chosen, fixed.select(condition, ALL, b))
        assert np.array_equal(chosen, np.array([b[0], 0])[(condition != 0) * 1] + ALL * (condition != 0))
    assert np.array_equal(OPS.add(floats(ALL), floats(b)).numpy(), ALL + other)
    assert np.array_equal(OPS.sub(floats(ALL), floats(b)).numpy(), ALL - other)
    assert np.array_equal(OPS.detach(floats(ALL)).numpy(), ALL)


@pytest.mark.parametrize("k", range(1, 9))
def test_torch_decay_equals_fixed_in_float32(k: int) -> None:
    for m in factors(k):  # u·m stays below 2^24
        decayed = OPS.shr(OPS.mul(floats(ALL), OPS.const(int(m))), k).numpy()
        assert np.array_equal(decayed, fixed.shr(ALL * m, k)), m


def test_torch_round_is_half_to_even_and_ours_is_half_up() -> None:
    x = floats(ALL) / 2
    ours, theirs = round_half_up(x), torch.round(x)
    assert np.array_equal(ours.numpy(), fixed.shr(ALL, 1))
    between = (ALL % 2 == 1) & (ALL // 2 % 2 == 0)  # n + ½ with an even n
    assert np.array_equal((ours != theirs).numpy(), between)

"""The builder leaves out what costs nothing to leave out, and changes no value."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantal.export.base import fixed
from quantal.export.base.fixed import Ints
from quantal.export.ir.fold import Folder
from quantal.export.ir.network import Layer, Network
from quantal.export.ir.ops import Mul, Shr
from quantal.export.proof.intervals import find_invariants
from support.programs import Plain
from support.steps import ALL, one_step


def value_of(ops: Folder, value: int, u: Ints) -> Ints:
    layer = Layer("l", 1, {}, tuple(ops.ops), (), {}, value, "out")
    network = Network("n", 1, -(2**15), 2**15 - 1, {}, (layer,))
    return np.broadcast_to(one_step(network, {}, u[:, None])[0][value], (len(u), 1))[:, 0]


@pytest.mark.parametrize("k", range(1, 13))
def test_a_pure_shift_leak_multiplies_nothing_and_equals_the_product_for_every_16_bit_value(k: int) -> None:
    for a in range(1, k + 1):
        m = (1 << k) - (1 << (k - a))
        ops = Folder()
        leak = ops.shr(ops.mul(ops.input("input"), ops.const(m)), k)
        assert np.array_equal(value_of(ops, leak, ALL), fixed.shr(ALL * m, k)), a
        layer = Layer("l", 1, {}, tuple(ops.ops), (), {}, leak, "out")
        (lean,) = find_invariants(Network("n", 1, -(2**15), 2**15 - 1, {}, (layer,))).layers
        assert not any(isinstance(op, Mul) for op in lean.ops), a


@pytest.mark.parametrize(("m", "k"), [(0, 3), (5, 3), (8, 3), (9, 3), (-8, 3), (3, 1)])
def test_other_factors_keep_their_product(m: int, k: int) -> None:
    ops = Folder()
    product_ = ops.shr(ops.mul(ops.input("input"), ops.const(m)), k)
    assert isinstance(ops.ops[product_], Shr)
    assert np.array_equal(value_of(ops, product_, ALL), fixed.shr(ALL * m, k))


def said(ops: Folder, kind: int, a: int, b: int, number: int) -> int:
    """The value of one statement of a random program."""
    k = number % 5
    match kind:
        case 0:
            return ops.add(a, b)
        case 1:
            return ops.sub(a, b)
        case 2:
            return ops.shr(a, k)
        case 3:
            return ops.shl(a, number % 2)
        case 4:
            return ops.shr(ops.mul(a, ops.const(number % (1 << k))), k)
        case 5:
            return ops.clamp(a, -number, number)
        case 6:
            return ops.select(ops.gt(a, b), b, a)
        case _:
            return ops.table([number % 3])


@given(st.lists(st.tuples(st.integers(0, 7), *[st.integers(0, 2**16)] * 3), min_size=1, max_size=15))
@settings(deadline=None)
def test_the_builder_simplifies_without_changing_a_value(program: list[tuple[int, int, int, int]]) -> None:
    results = []
    for ops in (Folder(), Plain()):
        values = [ops.input("input"), ops.const(0)]
        for kind, i, j, number in program:
            values.append(said(ops, kind, values[i % len(values)], values[j % len(values)], number))
        results.append([value_of(ops, value, ALL[::17]) for value in values])
        assert isinstance(ops, Plain) or len(set(ops.ops)) == len(ops.ops)
    for simple, plain in zip(*results, strict=True):
        assert np.array_equal(simple, plain)


def test_the_builder_records_equal_ops_once_and_no_shift_by_zero() -> None:
    ops = Folder()
    u, zero = ops.input("input"), ops.const(0)
    assert ops.shr(u, 0) == ops.shl(u, 0) == ops.add(u, zero) == ops.sub(u, zero) == ops.detach(u) == u
    assert ops.input("input") == u
    assert ops.table([7, 7, 7]) == ops.table([7])
    assert ops.mul(u, zero) == ops.mul(u, zero) == len(ops.ops) - 1 == 3

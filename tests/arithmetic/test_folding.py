"""What a neuron computes from its code and constants alone is a table of that code, and means what the ops mean."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantal.export.base import fixed
from quantal.export.base.errors import BadInput
from quantal.export.base.fixed import Ints
from quantal.export.ir import interpret
from quantal.export.ir.fold import Folder
from quantal.export.ir.network import Layer, Network
from quantal.export.ir.ops import Gt, Input, Lookup, Mul, Op, Shr, State, Step, Table, op_name
from quantal.export.proof.intervals import find_invariants, prove
from support.messages import one_line
from support.programs import Plain, table_lif

LEVELS = (-40, -7, 0, 3, 21, 60)
CODES = np.arange(len(LEVELS))
LAYER = Layer("l", 1, {}, (), (), {}, 0, "out")


def network_of(ops: Folder, value: int, codes: int = len(LEVELS), size: int = 1) -> Network:
    """One layer that outputs `value`, on an input in [0, codes)."""
    layer = Layer("l", size, {}, tuple(ops.ops), (), {}, value, "out")
    return Network("n", size, 0, codes - 1, {}, (layer,))


def lean(ops: Folder, value: int, codes: int = len(LEVELS), size: int = 1) -> tuple[Op, ...]:
    """The ops that are left of it when it is lowered."""
    return find_invariants(network_of(ops, value, codes, size)).layers[0].ops


def values(ops: Folder, value: int, codes: Ints = CODES) -> list[int]:
    network = network_of(ops, value, len(codes))
    return interpret.run(network, codes.reshape(-1, 1, 1))["output"][:, 0, 0].tolist()


def test_the_decay_of_a_level_is_one_table() -> None:
    ops = Folder()
    decayed = ops.shr(ops.mul(ops.lookup(ops.input("input"), LEVELS), ops.const(57)), 6)
    assert lean(ops, decayed) == (Input("input"), Lookup(0, tuple(fixed.shr(np.array(LEVELS) * 57, 6).tolist())))


@pytest.mark.parametrize("m", [32, 48, 63])
def test_a_pure_shift_leak_of_a_level_is_one_table_too(m: int) -> None:
    ops = Folder()
    decayed = ops.shr(ops.mul(ops.lookup(ops.input("input"), LEVELS), ops.const(m)), 6)
    assert lean(ops, decayed) == (Input("input"), Lookup(0, tuple(fixed.shr(np.array(LEVELS) * m, 6).tolist())))


def test_the_delayed_reset_goes_into_the_table_of_the_decay_whatever_is_added_between() -> None:
    ops = Folder()
    level, theta, current = ops.lookup(ops.state("u"), LEVELS), ops.const(20), ops.input("input")
    after = ops.add(ops.shr(ops.mul(level, ops.const(57)), 6), current)
    after = ops.sub(after, ops.select(ops.gt(level, theta), theta, ops.const(0)))
    after = ops.sub(after, ops.select(ops.gt(level, ops.const(50)), ops.const(9), ops.const(0)))
    array = np.array(LEVELS)
    table = fixed.shr(array * 57, 6) - 20 * (array > 20) - 9 * (array > 50)
    total = ops.ops[after]
    assert (op_name(total), total.b) == ("ADD", current)  # type: ignore[union-attr]
    assert ops.ops[total.a] == Lookup(0, tuple(table.tolist()))  # type: ignore[union-attr]


@pytest.mark.parametrize("theta", [-41, -40, -8, 0, 2, 3, 59, 60, 1000])
def test_a_level_above_a_constant_is_a_code_above_a_constant(theta: int) -> None:
    ops = Folder()
    fires = ops.gt(ops.lookup(ops.input("input"), LEVELS), ops.const(theta))
    kept = lean(ops, fires)
    assert kept == (Input("input"), Table((sum(level <= theta for level in LEVELS) - 1,), "constant"), Gt(0, 1))
    assert values(ops, fires) == [int(level > theta) for level in LEVELS]


def test_a_comparison_with_unsorted_levels_is_a_table() -> None:
    ops = Folder()
    fires = ops.gt(ops.lookup(ops.input("input"), (5, 1, 9)), ops.const(4))
    assert lean(ops, fires, 3) == (Input("input"), Lookup(0, (1, 0, 1)))


def test_a_comparison_folds_further() -> None:
    ops = Folder()
    level = ops.lookup(ops.input("input"), LEVELS)
    fires = ops.gt(level, ops.const(20))
    assert isinstance(ops.ops[fires], Gt)
    amount = ops.select(fires, level, ops.const(-1))
    assert ops.ops[amount] == Lookup(0, (-1, -1, -1, -1, 21, 60))
    twice = ops.add(fires, ops.gt(level, ops.const(0)))
    assert ops.ops[twice] == Lookup(0, (0, 0, 0, 1, 2, 2))


def test_constants_alone_are_a_table() -> None:
    ops = Folder()
    assert ops.ops[ops.shl(ops.table((3, 4), "theta"), 1)].values == (6, 8)  # type: ignore[union-attr]
    assert ops.ops[ops.sub(ops.table((3, 4)), ops.table((1, 2)))].values == (2,)  # type: ignore[union-attr]


def test_what_differs_from_neuron_to_neuron_or_reads_two_codes_stays_as_it_is() -> None:
    ops = Folder()
    x = ops.input("input")
    level = ops.lookup(x, LEVELS)
    for other in (ops.table((1, 2)), ops.lookup(ops.step(x, (1, 2)), LEVELS), ops.lookup(x, LEVELS[1:]), x):
        product = ops.mul(level, other)
        assert ops.ops[product] == Mul(level, other)
        assert isinstance(ops.ops[ops.shr(product, 3)], Shr)


def test_what_32_bits_cannot_hold_is_left_for_the_proof_to_refuse() -> None:
    ops = Folder()
    product = ops.shr(ops.mul(ops.lookup(ops.input("input"), LEVELS), ops.const(2**26)), 26)
    with pytest.raises(BadInput) as error:
        prove(network_of(ops, product))
    one_line(error, "layer l", "MUL", "32 bits")
    wide = ops.gt(ops.lookup(ops.input("input"), LEVELS), ops.const(2**40))
    with pytest.raises(BadInput):
        prove(network_of(ops, wide))


def test_a_code_outside_a_second_table_is_left_for_the_proof_to_refuse() -> None:
    for levels in ((5, -1), (5, 2), (5, 9)):
        ops = Folder()
        read = ops.lookup(ops.lookup(ops.input("input"), levels), (7, 8))
        with pytest.raises(BadInput) as error:
            prove(network_of(ops, read, 2))
        one_line(error, "LOOKUP has 2 levels")


def test_lowering_drops_the_ops_and_the_weights_that_nothing_reads() -> None:
    ops = Folder()
    kept, _ = ops.matvec("kept", ops.input("input")), ops.matvec("dropped", ops.input("input"))
    weights = {"kept": np.ones((1, 1), np.int8), "dropped": np.ones((1, 1), np.int8)}
    layer = replace(network_of(ops, kept).layers[0], weights=weights)
    (lowered,) = find_invariants(Network("n", 1, 0, 1, {}, (layer,))).layers
    assert (len(lowered.ops), set(lowered.weights)) == (2, {"kept"})


# ---- whole neurons


def kinds(ops: tuple[Op, ...]) -> set[str]:
    return {op_name(op) for op in ops}


@pytest.mark.parametrize("timing", ["delayed", "immediate"])
@pytest.mark.parametrize("bits", [2, 8])
def test_a_table_state_decays_resets_and_fires_without_a_product_or_a_choice(bits: int, timing: str) -> None:
    layer = table_lif(bits, timing).layers[0]
    assert kinds(layer.ops) == {"INPUT", "STATE", "MATVEC", "SHL", "ADD", "LOOKUP", "STEP", "TABLE", "GT"}
    lookups = [op for op in layer.ops if isinstance(op, Lookup)]
    code = {i for i, op in enumerate(layer.ops) if isinstance(op, State) and op.name == "u"}
    stepped = {i for i, op in enumerate(layer.ops) if isinstance(op, Step)}
    assert [op.a in code for op in lookups] == [True, False][: 1 + (timing == "immediate")]
    assert {op.a for op in lookups} <= code | stepped
    (fires,) = (op for op in layer.ops if isinstance(op, Gt))
    assert fires.a in stepped  # the code is compared, not its level


Statement = tuple[int, int, int, int, int]


def said(ops: Folder, r: Random, pick: Callable[[], int]) -> int:
    """The value of one statement of a random program."""
    number = r.randint(-60, 60)
    match r.randint(0, 9):
        case 0:
            return ops.add(pick(), pick())
        case 1:
            return ops.sub(pick(), pick())
        case 2:
            return ops.sub(ops.add(pick(), pick()), pick())
        case 3:
            return ops.shr(ops.mul(pick(), ops.const(abs(number))), 6)
        case 4:
            return ops.clamp(ops.shl(pick(), abs(number) % 4), -abs(number), 99)
        case 5:
            return ops.select(ops.gt(pick(), pick()), pick(), pick())
        case 6:
            return ops.gt(pick(), ops.const(number))
        case 7:
            borders = sorted({r.randint(-60, 60) for _ in LEVELS[1:]})
            return ops.lookup(ops.step(pick(), borders), [r.randint(-60, 60) for _ in (*borders, 0)])
        case 8:
            return ops.table([r.randint(-60, 60) for _ in range(r.choice([1, 2]))])
        case _:
            return ops.lookup(r.choice([0, 1]), sorted(LEVELS) if r.randint(0, 1) else LEVELS[::-1])


def program(ops: Folder, seed: int, length: int) -> list[int]:
    """The values of a random program on two codes, those of the input and of a state."""
    r = Random(seed)
    made = [ops.input("input"), ops.state("u"), ops.lookup(0, LEVELS), ops.lookup(1, LEVELS)]
    for _ in range(length):
        made.append(said(ops, r, lambda: r.choice(made)))
    return made


def evaluated(ops: Folder, x: Ints, u: Ints) -> list[Ints]:
    """Every value of the ops on an input and a state."""
    results: list[Ints] = []
    for op in ops.ops:
        results.append(interpret._apply(op, results, LAYER, {"input": x}, {"l.u": u}))
    return results


@given(st.integers(0, 2**32), st.integers(1, 15))
@settings(max_examples=300, deadline=None)
def test_folding_changes_no_value(seed: int, length: int) -> None:
    builder, plain = Folder(), Plain()
    pairs = list(zip(program(builder, seed, length), program(plain, seed, length), strict=True))
    x, u = (codes.reshape(-1, 1) for codes in np.meshgrid(CODES, CODES))
    folded, said_ = evaluated(builder, x, u), evaluated(plain, x, u)
    assert all(np.array_equal(*np.broadcast_arrays(folded[a], said_[b])) for a, b in pairs)
    assert len(set(builder.ops)) == len(builder.ops)


def test_the_random_programs_fold() -> None:
    folded = 0
    for seed in range(50):
        ops = Folder()
        made = [ops.ops[value] for value in program(ops, seed, 8)]
        folded += sum(isinstance(op, Lookup) and op.a in (0, 1) for op in made[4:])
    assert folded > 50

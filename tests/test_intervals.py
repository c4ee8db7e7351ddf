"""Every value a network can take lies in its proven interval, and what the proofs delete changes nothing."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from random import Random

import numpy as np
import pytest
from conftest import one_line
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import WINDOWS, input_for, windowed
from quantal.export.base import fixed
from quantal.export.base.errors import BadInput
from quantal.export.base.fixed import Ints
from quantal.export.ir import interpret
from quantal.export.ir.check import check
from quantal.export.ir.fold import Folder
from quantal.export.ir.network import Layer, Network, StateVar
from quantal.export.ir.ops import (
    OPS,
    Add,
    Clamp,
    Gt,
    Input,
    Lookup,
    MatVec,
    Mul,
    Op,
    Select,
    Shl,
    Shr,
    State,
    Step,
    Sub,
    Table,
    op_name,
    operands,
)
from quantal.export.network_file import dumps
from quantal.export.proof import intervals
from quantal.export.proof.intervals import Interval, Proven, evaluate, find_invariants, prove
from quantal.qat.arithmetic import neurons
from quantal.qat.arithmetic.grids import ShiftGrid
from quantal.qat.arithmetic.neurons import Params

ALL = np.arange(-(2**15), 2**15)
LIMIT = 2**20  # the random layers clamp what may grow beyond
RANDOMS = st.randoms(use_true_random=False)


# ---- random networks with every kind of op


def random_layer(r: Random, name: str, source: str, inputs: int, bound: int, size: int, states: int) -> Layer:
    """A layer on `inputs` values of at most ±bound. The magnitudes it tracks keep it clear of the 32-bit refusal."""
    ops: list[Op] = []
    most: list[int] = []  # a bound on each value's magnitude
    varies: list[int] = []  # values that are computed from an input or a state
    variables = []

    def emit(op: Op, magnitude: int) -> int:
        ops.append(op)
        most.append(magnitude)
        if isinstance(op, Input | State | MatVec) or any(v in varies for v in operands(op)):
            varies.append(len(ops) - 1)
        if magnitude > LIMIT:
            lo, hi = sorted(r.randint(-LIMIT, LIMIT) for _ in range(2))
            return emit(Clamp(len(ops) - 1, lo, hi), LIMIT)
        return len(ops) - 1

    def pick() -> int:
        return r.choice([v for v in range(len(ops)) if size == inputs or not isinstance(ops[v], Input)])

    def pick_varying() -> int:
        return r.choice([v for v in varies if size == inputs or not isinstance(ops[v], Input)])

    def matrix(columns: int) -> np.ndarray:
        top = r.choice([1, 7, 127])
        return np.array([[r.randint(-top, top) for _ in range(columns)] for _ in range(size)], np.int8)

    weights = {"fan_in": matrix(inputs), "recurrent": matrix(size)}
    emit(MatVec("fan_in", emit(Input(source), bound)), 127 * inputs * bound)
    for i in range(states):
        lo = r.randint(-20, 0)
        hi = lo + r.randint(1, 40)
        init = r.randint(lo, hi)
        variables.append(StateVar(f"s{i}", init, lo, hi, -1))
        emit(State(f"s{i}"), 40)
    emit(MatVec("recurrent", next(v for v, op in enumerate(ops) if isinstance(op, State))), 127 * size * 40)
    kinds = [kind for kind in OPS if kind not in ("INPUT", "STATE", "MATVEC", "LOOKUP")] * r.randint(1, 2)
    r.shuffle(kinds)
    for kind in kinds:
        a, b, c = pick(), pick(), pick()
        if kind == "TABLE":
            values = tuple(r.randint(-1000, 1000) for _ in range(r.choice([1, size])))
            emit(Table(values), 1000)
        elif kind == "MUL" and most[a] * most[b] < 2**30:
            emit(Mul(a, b), most[a] * most[b])
        elif kind in ("ADD", "MUL"):
            emit(Add(a, b), most[a] + most[b])
        elif kind == "SUB":
            emit(Sub(a, b), most[a] + most[b])
        elif kind == "SHR":
            emit(Shr(a, shift := r.choice([0, 1, 2, 5, 31])), (most[a] + (1 << shift >> 1)) >> shift)
        elif kind == "SHL":
            emit(Shl(a, shift := r.randint(0, 8)), most[a] << shift)
        elif kind == "CLAMP":
            lo, hi = sorted(r.randint(-(2 ** r.randint(1, 20)), 2 ** r.randint(1, 20)) for _ in range(2))
            emit(Clamp(a, lo, hi), LIMIT)
        elif kind == "GT":
            emit(Gt(a, b), 1)
        elif kind == "SELECT":
            emit(Select(c, a, b), max(most[a], most[b]))
        elif kind == "STEP":
            borders = tuple(sorted({r.randint(-50, 50) for _ in range(r.randint(1, 6))}))
            code = emit(Step(a, borders), len(borders))
            emit(Lookup(code, tuple(r.randint(-99, 99) for _ in range(len(borders) + 1))), 99)
    variables = [replace(s, next=emit(Clamp(pick_varying(), s.lo, s.hi), 40)) for s in variables]
    return Layer(name, size, {}, tuple(ops), tuple(variables), weights, pick_varying(), "out")


def random_network(r: Random, layers: int, top: int) -> Network:
    lo, hi = r.randint(-2, 0), r.randint(1, top)
    widths = {"input": (inputs := r.randint(1, 4), max(-lo, hi))}
    stack = []
    for i in range(layers):
        source = r.choice(list(widths))
        layer = random_layer(r, f"l{i}", source, *widths[source], r.randint(1, 4), r.randint(1, 2))
        clamped = (*layer.ops, Clamp(layer.output, -1000, 1000))
        stack.append(replace(layer, ops=clamped, output=len(layer.ops)))
        widths[layer.name] = (layer.size, 1000)
    network = Network("random", inputs, lo, hi, {}, tuple(stack))
    check(network, "test")
    return network


def one_step(network: Network, states: interpret.Trace, x: Ints) -> list[list[Ints]]:
    """Every op's value in every layer, as the interpreter computes it; `states` becomes what the step commits."""
    inputs, everything = {"input": x}, []
    after = {}
    for layer in network.layers:
        values: list[Ints] = []
        for op in layer.ops:
            values.append(interpret._apply(op, values, layer, inputs, states))
        inputs[layer.name] = values[layer.output]
        after |= {f"{layer.name}.{s.name}": values[s.next] for s in layer.states}
        everything.append(values)
    states |= after
    return everything


def assert_inside(values: list[list[Ints]], proven: Proven) -> None:
    for (layer, allowed), got in zip(proven.layers, values, strict=True):
        for index, (value, interval) in enumerate(zip(got, allowed, strict=True)):
            inside = (interval.lo <= value) & (value <= interval.hi)
            assert inside.all(), f"{layer.name}: value {index} ({op_name(layer.ops[index])})"


def test_the_random_networks_hold_every_kind_of_op_on_vectors() -> None:
    networks = [random_network(Random(seed), layers=2, top=9) for seed in range(20)]
    layers = [layer for network in networks for layer in network.layers]
    assert all({op_name(op) for op in layer.ops} >= set(OPS) - {"MUL", "CONV", "SUMPOOL"} for layer in layers)
    assert sum(any(isinstance(op, Mul) for op in layer.ops) for layer in layers) > len(layers) / 2


@given(RANDOMS, st.integers(1, 2), st.sampled_from([1, 300, 65535]), st.sampled_from([2, 40, 300]))
@settings(max_examples=100, deadline=None)
def test_every_value_at_every_step_lies_in_its_proven_interval(r: Random, layers: int, top: int, rounds: int) -> None:
    before = random_network(r, layers, top)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "_PATIENCE", rounds)  # few rounds: states that do not settle are covered too
        network = find_invariants(before)
        assert dumps(prove(find_invariants(network))) == dumps(prove(network))
    proven = prove(network)
    rng, steps = np.random.default_rng(r.randint(0, 2**32)), 30
    x = rng.integers(before.input_lo, before.input_hi, (8, steps, before.inputs), endpoint=True)
    x[0], x[1] = before.input_lo, before.input_hi
    x[2:4] = rng.choice([before.input_lo, before.input_hi], (2, steps, before.inputs))
    x[4, ::2], x[4, 1::2] = before.input_lo, before.input_hi
    states = interpret.initial_states(network, len(x))
    trace = interpret.run(before, x)
    for t in range(steps):
        values = one_step(network, states, x[:, t])
        assert_inside(values, proven)
        for name, state in states.items():  # deleted clamps leave the trace as it was
            assert np.array_equal(state, trace[name][:, t])
        assert np.array_equal(values[-1][network.layers[-1].output], trace["output"][:, t])


@given(RANDOMS)
@settings(max_examples=100, deadline=None)
def test_every_value_in_every_reachable_state_lies_in_its_proven_interval(r: Random) -> None:
    layer = random_layer(r, "l0", "input", 1, 2, size=1, states=r.randint(1, 2))
    network = find_invariants(Network("random", 1, -2, 2, {}, (layer,)))
    proven = prove(network)
    names = [f"l0.{s.name}" for s in layer.states]
    reached: set[tuple[int, ...]] = set()
    frontier = {tuple(s.init for s in layer.states)}
    while frontier:
        reached |= frontier
        rows = np.array([(*state, x) for state, x in product(sorted(frontier), range(-2, 3))])
        states = {name: rows[:, i : i + 1] for i, name in enumerate(names)}
        assert_inside(one_step(network, states, rows[:, -1:]), proven)
        frontier = set(zip(*(states[name][:, 0].tolist() for name in names), strict=True)) - reached
    for state, values in zip(network.layers[0].states, zip(*reached, strict=True), strict=True):
        assert state.lo <= min(values)
        assert max(values) <= state.hi


@given(st.integers(0, 2**32))
def test_every_partial_sum_in_every_order_lies_in_the_products_interval(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.integers(-128, 128, (3, 6)).astype(np.int8)
    layer = Layer("l", 3, {}, (Input("input"), MatVec("w", 0)), (), {"w": weights}, 1, "out")
    ends = np.sort(rng.integers(-300, 300, (2, 6)), axis=0)
    interval = evaluate(layer, {"input": Interval(ends[0], ends[1])}, {})[1]
    for _ in range(20):
        x = rng.integers(ends[0], ends[1], endpoint=True)
        order = rng.permutation(6)
        sums = np.cumsum((weights * x)[:, order], axis=1)
        assert (interval.lo <= sums.min(axis=1)).all()
        assert (sums.max(axis=1) <= interval.hi).all()


# ---- what the proofs find


def membrane(decay: int, bits: int, maximum: int) -> Network:
    """One leaky integrator of 16 bits, as qat records it, on one input in [0, maximum] with weight 1."""
    ops = Folder()
    current = ops.matvec("w", ops.input("input"))
    p = Params(None, ops.const(decay), bits, ShiftGrid(0, -(2**15), 2**15 - 1))
    output, after = neurons.li(ops, current, {"u": ops.state("u")}, p)
    state = StateVar("u", 0, int(p.grid.lo), int(p.grid.hi), after["u"])
    layer = Layer("readout", 1, {}, tuple(ops.ops), (state,), {"w": np.ones((1, 1), np.int8)}, output, "membrane")
    return Network("one", 1, 0, maximum, {}, (layer,))


PURE_LEAKS = [32, 48, 56, 60, 62, 63]


@pytest.mark.parametrize("decay", [0, 1, 31, 57, 58, 61, *PURE_LEAKS])
def test_a_leaky_membrane_with_small_input_gets_its_least_interval_and_loses_its_clamp(decay: int) -> None:
    network = find_invariants(membrane(decay, 6, 10))
    states = interpret.run(network, np.full((1, 3000, 1), 10))["readout.u"]
    state = network.layers[0].state("u")
    assert (state.lo, state.hi) == (0, states.max())
    assert not any(isinstance(op, Clamp) for op in network.layers[0].ops)


def test_a_membrane_that_can_saturate_keeps_its_clamp_and_its_format() -> None:
    network = find_invariants(membrane(61, 6, 2000))
    state = network.layers[0].state("u")
    assert (state.lo, state.hi) == (0, 2**15 - 1)
    assert any(isinstance(op, Clamp) for op in network.layers[0].ops)


def test_a_state_that_does_not_settle_keeps_the_range_of_its_format() -> None:
    ops = (Input("input"), State("n"), Add(0, 1), Clamp(2, 0, 60_000))
    layer = Layer("counter", 1, {}, ops, (StateVar("n", 0, 0, 60_000, 3),), {}, 3, "out")
    network = find_invariants(Network("one", 1, 0, 1, {}, (layer,)))
    assert network.layers[0].state("n").hi == 60_000
    assert network.layers[0].ops == ops
    prove(network)


# ---- the builder leaves out what costs nothing to leave out


class Plain(Folder):
    """Records every op as it is said."""

    def record(self, op: Op) -> int:
        self.ops.append(op)
        return len(self.ops) - 1

    def table(self, values: Iterable[int], name: str = "table") -> int:
        return self.record(Table(tuple(values), name))

    def add(self, a: int, b: int) -> int:
        return self.record(Add(a, b))

    def sub(self, a: int, b: int) -> int:
        return self.record(Sub(a, b))

    def shr(self, a: int, shift: int) -> int:
        return self.record(Shr(a, shift))

    def shl(self, a: int, shift: int) -> int:
        return self.record(Shl(a, shift))


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


# ---- refusals


def layer_of(*ops: Op, states: tuple[StateVar, ...] = (), size: int = 3) -> Layer:
    return Layer("hidden", size, {}, ops, states, {}, len(ops) - 1, "out")


def refused(layer: Layer, *words: str, hi: int = 1) -> None:
    network = Network("n", layer.size, 0, hi, {}, (layer,))
    with pytest.raises(BadInput) as error:
        prove(network)
    one_line(error, "layer hidden", *words)


LARGE = 2**31 - 1


@pytest.mark.parametrize(
    ("ops", "words"),
    [
        ((Table((0, LARGE, 0)), Add(0, 1)), ("neuron 1", "ADD (value 2)", "[2147483647, 2147483648]")),
        ((Table((0, 0, -LARGE - 1)), Sub(1, 0)), ("neuron 2", "SUB (value 2)", "[-2147483649, -2147483648]")),
        ((Table((1, 2**30, 2**31 - 1)), Mul(0, 1), Shl(2, 1)), ("neuron 1", "SHL (value 3)", "[0, 2147483648]")),
        ((Table((1, 2, 2**15)), Shl(1, 16), Mul(0, 2)), ("neuron 2", "SHL (value 2)", "2147483648")),
        ((Table((1, 2, 50_000)), Mul(1, 1), Add(0, 2)), ("neuron 2", "MUL (value 2)", "2500000000")),
        ((Table((0, LARGE - 7, LARGE - 8)), Shr(1, 4), Add(0, 2)), ("neuron 1", "SHR (value 2)", "2147483648")),
    ],
)
def test_a_value_beyond_32_bits_is_refused_naming_layer_and_neuron(ops: tuple[Op, ...], words: tuple[str, ...]) -> None:
    refused(layer_of(Input("input"), *ops), *words)


def test_the_last_values_that_fit_32_bits_are_accepted() -> None:
    ops = (Input("input"), Table((LARGE - 1,)), Add(0, 1), Table((LARGE - 8,)), Shr(3, 4), Sub(0, 2))
    values = prove(Network("n", 3, 0, 1, {}, (layer_of(*ops),))).intervals[0]
    assert values[2].hull == (LARGE - 1, LARGE)


def test_a_product_beyond_32_bits_is_refused_naming_layer_and_neuron() -> None:
    weights = np.zeros((3, 300), np.int8)
    weights[1] = 127
    layer = Layer("hidden", 3, {}, (Input("input"), MatVec("w", 0)), (), {"w": weights}, 1, "out")
    with pytest.raises(BadInput) as error:
        prove(Network("n", 300, 0, 65535, {}, (layer,)))
    one_line(error, "layer hidden", "neuron 1", "MATVEC (value 1)", str(300 * 127 * 65535))


@pytest.mark.parametrize(
    ("init", "lo", "hi", "words"),
    [
        (0, 0, 5, ("neuron 2", "committed in [0, 6]", "[0, 5]")),
        (0, 1, 6, ("starts at 0", "[1, 6]")),
        (7, 0, 6, ("starts at 7", "[0, 6]")),
        (1, 1, 6, ("neuron 0", "committed in [0, 6]", "[1, 6]")),
    ],
)
def test_a_claim_that_is_no_invariant_is_refused_naming_layer_neuron_and_state(
    init: int, lo: int, hi: int, words: tuple[str, ...]
) -> None:
    ops = (Input("input"), Table((0, 4, 5)), Add(0, 1), State("u"), Gt(3, 1), Select(4, 0, 2))
    refused(layer_of(*ops, states=(StateVar("u", init, lo, hi, 2),)), "state u", *words)


def test_an_unbounded_accumulator_is_refused_naming_layer_and_state() -> None:
    ops = (Input("input"), State("u"), Add(0, 1))
    layer = layer_of(*ops, states=(StateVar("u", 0, 0, 1000, 2),))
    refused(find_invariants(Network("n", 3, 0, 1, {}, (layer,))).layers[0], "state u", "[0, 1001]")
    doubling = layer_of(*ops, Shl(2, 1), states=(StateVar("u", 0, 0, 1000, 3),))
    with pytest.raises(BadInput) as error:
        find_invariants(Network("n", 3, 0, 1, {}, (doubling,)))
    one_line(error, "layer hidden", "neuron 0", "32 bits")


def test_a_code_outside_its_levels_is_refused_naming_the_layer() -> None:
    code = (Input("input"), Step(0, (1, 2, 3)))
    refused(layer_of(*code, Lookup(1, (5, 6, 7))), "LOOKUP has 3 levels", "[0, 3]", hi=9)
    refused(layer_of(Input("input"), Table((1,)), Sub(0, 1), Lookup(2, (5, 6))), "LOOKUP", "[-1, 0]")
    values = prove(Network("n", 3, 0, 2, {}, (layer_of(*code, Lookup(1, (5, 6, 7))),))).intervals[0]
    assert values[2].hull == (5, 7)  # only the levels that the code reaches count


@pytest.mark.parametrize("case", WINDOWS)
def test_planes_pools_and_delays_lie_in_their_proven_intervals(case: str) -> None:
    for seed, (lo, hi) in enumerate([(0, 1), (-5, 3), (0, 255)]):
        network = windowed(case, 4, lo, hi, seed)
        trace = interpret.run(network, input_for(network, 8, 12, seed))
        for layer, proven in prove(network).layers:
            for name, value in layer.records():
                assert (proven[value].lo <= trace[name]).all(), name
                assert (trace[name] <= proven[value].hi).all(), name

"""Every value a network can take lies in its proven interval, and what the proofs delete changes nothing."""

from dataclasses import replace
from itertools import product
from random import Random

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

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
from support.steps import one_step

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
        try:
            network = find_invariants(before)
        except BadInput:
            reject()  # now and then a drawn shift leaves 32 bits, and is refused
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

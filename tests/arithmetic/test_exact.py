"""What decides an integer is exact on any machine: the floats that torch computes in, products, sums and powers."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from quantal.export.base.errors import BadInput
from quantal.export.ir import interpret
from quantal.export.ir.builder import Builder
from quantal.export.ir.network import Layer
from quantal.export.ir.ops import MatVec
from quantal.export.proof import intervals
from quantal.export.proof.intervals import Interval, claims_of, evaluate, find_invariants
from quantal.qat.arithmetic import exact, neurons
from quantal.qat.arithmetic.neurons import RESETTING
from quantal.qat.arithmetic.torch_ops import TorchOps
from quantal.qat.lower import exact_dtype, lower, record
from quantal.qat.network.layer import SpikingLayer
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.network.trace import hard_trace
from quantal.qat.quantizers.states import STATE_QUANTIZERS
from quantal.qat.quantizers.weights import standardized
from support.digest import digest_of_networks
from support.graphs import GRAPHS, graph, made
from support.layers import a_layer
from support.neurons import KINDS
from support.sources import SUPPORTED
from support.torch_networks import random_input, random_network

ROWS = 200


@pytest.fixture(autouse=True, scope="module")
def _quick_search() -> Iterator[None]:
    """Fewer rounds for states that never settle: they keep their format's range all the sooner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "_PATIENCE", 50)
        yield


class Pair:
    """A value of the record, and torch's."""

    def __init__(self, value: int, tensor: Tensor):
        self.value, self.tensor = value, tensor


class Paired:
    """`ops` that records a step a second time, and lets torch compute it: both, op by op.

    Whatever torch makes must lie in the interval of the op that is recorded for it, and all ops must be recorded ones.
    """

    def __init__(self, layer: Layer, proven: list[Interval]):
        self.builder, self.torch, self.intervals, self.largest = Builder(), TorchOps(), proven, 0
        for op in layer.ops:
            self.builder.record(op)

    def const(self, value: int) -> Pair:
        return Pair(self.builder.const(value), self.torch.const(value))

    def __getattr__(self, name: str) -> Any:
        def said(*arguments: Any) -> Pair:
            value = getattr(self.builder, name)(*[a.value if isinstance(a, Pair) else a for a in arguments])
            tensor = getattr(self.torch, name)(*[a.tensor if isinstance(a, Pair) else a for a in arguments])
            return self.held(Pair(value, tensor))

        return said

    def table_op(self, name: str, a: Pair, table: Tensor, grid: Any) -> Pair:
        """STEP by borders, or LOOKUP in levels."""
        more = (grid,) if name == "step" else ()
        value = getattr(self.builder, name)(a.value, [int(entry) for entry in table])
        return self.held(Pair(value, getattr(self.torch, name)(a.tensor, table, *more)))

    def step(self, a: Pair, borders: Tensor, grid: Any) -> Pair:
        return self.table_op("step", a, borders, grid)

    def lookup(self, a: Pair, levels: Tensor) -> Pair:
        return self.table_op("lookup", a, levels, None)

    def held(self, pair: Pair) -> Pair:
        assert pair.value < len(self.intervals), "torch computes what is not recorded"
        interval = self.intervals[pair.value]
        assert bool((pair.tensor >= torch.as_tensor(interval.lo)).all())
        assert bool((pair.tensor <= torch.as_tensor(interval.hi)).all())
        self.largest = max(self.largest, int(pair.tensor.abs().max()))
        return pair


def spread(interval: Interval, size: int, seed: int) -> Tensor:
    """Integers of the interval (ROWS, size), float64: its ends above all."""
    generator = np.random.default_rng(seed)
    lo, hi = (np.broadcast_to(end, (ROWS, size)) for end in (interval.lo, interval.hi))
    some = generator.integers(lo, hi, endpoint=True)
    choice = generator.integers(0, 3, (ROWS, size))
    choice[0], choice[1] = 0, 1
    return torch.as_tensor(np.choose(choice, [lo, hi, some]), dtype=torch.float64)


def largest_of_steps(network: SpikingNetwork) -> int:
    """The most that torch computes in one step of any layer, from states and products at the ends of what they can be.

    Checks on the way that every value of torch lies in the interval of the recorded op that stands for it.
    """
    recorded, lowered = record(network, "n"), lower(network, "n")
    inputs, largest = {"input": Interval.of(recorded.input_lo, recorded.input_hi)}, 0
    for layer, (kept, proven), module in zip(recorded.layers, lowered.layers, network.stack, strict=True):
        claims = claims_of(kept)
        largest = max(largest, largest_of_step(layer, evaluate(layer, inputs, claims, 54), claims, module))
        inputs[layer.name] = proven[kept.output]
    assert largest <= lowered.largest
    return largest


def largest_of_step(layer: Layer, proven: list[Interval], claims: dict[str, Interval], module: SpikingLayer) -> int:
    """The same of one layer, as recorded, and as torch has it."""
    ops = Paired(layer, proven)
    state = {
        name: Pair(ops.builder.state(name), spread(claim, layer.size, seed))
        for seed, (name, claim) in enumerate(claims.items())
    }
    integers = module.integers().mapped(
        lambda codes: codes.double(),
        lambda name, table: Pair(ops.builder.table(table.tolist(), name), module.of_neurons(table.double())),
        lambda levels: levels.double(),
    )
    products = [Pair(i, spread(proven[i], layer.size, i)) for i, op in enumerate(layer.ops) if type(op) is MatVec]
    fan_in, *back = products
    if module.recurrent is not None and module.config.recurrent == "diagonal":
        codes = integers.recurrent.flatten()
        value = ops.builder.mul(ops.builder.table(codes.tolist(), "recurrent"), ops.builder.state("spike"))
        back = [ops.held(Pair(value, state["spike"].tensor * codes))]
    fan_in_shift, recurrent_shift, _ = (shift + module.quantizer.coarse for shift in module.shifts.tolist())
    with torch.no_grad():
        current = neurons.current(ops, fan_in, fan_in_shift, back[0] if back else None, recurrent_shift, integers.bias)
        module.neuron.step(ops, current, state, integers.params)
    return ops.largest


OPTIONS: list[dict[str, Any]] = [
    *({"reset": reset, "timing": timing} for reset, timing in RESETTING),
    *(dict(kind) for kind in KINDS.values()),
    *({"state_quantizer": name, "states": 8} for name in STATE_QUANTIZERS),
    {"spikes": 3, "state_range": 16.0}, {"norm": "batch"}, {"norm": "psp"}, {"weight_quantizer": "dq-power"},
    {"states": 16}, {"recurrent": True}, {"recurrent": "diagonal"},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("maximum", [1, 4095])
def test_every_value_that_torch_computes_is_recorded_and_the_float_holds_it(
    options: dict[str, Any], maximum: int
) -> None:
    proven = 0
    for seed, decay_bits, threshold in ((0, 6, 1.0), (1, 12, 200.0), (2, 12, 3.0), (3, 9, 50.0)):
        layer = a_layer("hidden", 6, **{"decay_bits": decay_bits, "threshold": threshold, "gain": 3.0} | options)
        readout = a_layer("readout", 3, neuron="li", decay_bits=decay_bits, state_range=16.0)
        network = random_network(layer, readout, channels=5, maximum=maximum, seed=seed)
        try:
            dtype = exact_dtype(lower(network, "n"))
        except BadInput:  # it has no proof, so nothing will run it
            continue
        assert largest_of_steps(network) < 2**24 or dtype is torch.float64
        proven += 1
    assert proven


def test_a_table_of_states_that_decays_needs_float64_though_nothing_is_left_that_does() -> None:
    """12 inputs up to 4095 and a threshold of 200, with 8-bit aligned states: a level times its decay passes 2^24."""
    layer = a_layer("hidden", 8, state_quantizer="aligned", states=8, threshold=200.0, reset="none", gain=3.0)
    network = random_network(layer, a_layer("o", 3, neuron="li"), channels=12, maximum=4095, seed=0)
    with torch.no_grad():
        network.stack[0].decay.fill_(63 / 64)
        network.stack[0].ranges.copy_(torch.tensor([4.0, 0.98, 4.0]))
    lowered = lower(network, "n")
    left = max(abs(end) for interval in lowered.intervals[0] for end in interval.hull)
    assert largest_of_steps(network) >= 2**24 > left
    assert exact_dtype(lowered) is torch.float64


class Largest(TorchDispatchMode):
    """Watches the largest magnitude of any float64 that torch makes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0.0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made_ = function(*args, **(kwargs or {}))
        if isinstance(made_, Tensor) and made_.dtype == torch.float64 and made_.numel():
            self.seen = max(self.seen, float(made_.abs().max()))
        return made_


@pytest.mark.parametrize("name", GRAPHS)
def test_no_tensor_of_a_graphs_forward_is_larger_than_the_record_says(name: str) -> None:
    network, x = made(graph(name))
    x[0], x[1] = 0, network.input_maximum
    lowered = lower(network, "n")
    with Largest() as watch:
        hard_trace(network, x, torch.float64)
    assert network.input_maximum <= watch.seen <= lowered.largest


@given(st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_folding_a_network_changes_no_value(seed: int) -> None:
    pick = np.random.default_rng(seed)
    options = OPTIONS[pick.integers(len(OPTIONS))]
    layer = a_layer("hidden", 5, **{"gain": 3.0} | options)
    network = random_network(layer, a_layer("o", 3, neuron="li"), channels=4, maximum=9, seed=int(seed % 1000))
    x = random_input(4, 12, 4, 9, int(seed % 1000))
    plain, folded = interpret.run(record(network, "n"), x), interpret.run(lower(network, "n").network, x)
    assert list(plain) == list(folded)
    assert all(np.array_equal(plain[name], folded[name]) for name in plain)


def test_the_record_is_what_the_proof_of_the_folded_network_holds_for() -> None:
    """Its own claims, of whole formats, are not needed; that they would be proven too shows that both mean the same."""
    layer = a_layer("hidden", 5, recurrent=True, gain=3.0)
    network = random_network(layer, a_layer("o", 3, neuron="li"), channels=4, maximum=9, seed=1)
    recorded, lowered = find_invariants(record(network, "n")), lower(network, "n")
    claims = [[(s.name, s.lo, s.hi) for s in layer.states] for layer in lowered.network.layers]
    assert claims == [[(s.name, s.lo, s.hi) for s in layer.states] for layer in recorded.layers]


# ---- what the user's process asks of torch


@pytest.fixture
def network() -> SpikingNetwork:
    layer = a_layer("hidden", 64, gain=4.0, recurrent=True)
    return random_network(layer, a_layer("o", 3, neuron="li"), channels=64, maximum=4095, seed=3)


@pytest.fixture
def _as_it_was() -> Iterator[None]:
    before = exact.precision()
    yield
    exact._set(before)


def same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return list(got) == list(expected) and all(np.array_equal(got[name], expected[name]) for name in expected)


@pytest.mark.usefixtures("_as_it_was")
@pytest.mark.parametrize("asked", ["medium", "high"])
def test_products_are_exact_whatever_precision_is_asked_of_others(network: SpikingNetwork, asked: str) -> None:
    x = random_input(20, 10, 64, 4095, 0)
    expected = interpret.run(lower(network, "n").network, x)
    torch.set_float32_matmul_precision(asked)
    before, seen = exact.precision(), []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if any(word in str(function) for word in ("mm", "matmul")):
                seen.append(exact.precision())
            return function(*args, **(kwargs or {}))

    with Watch():
        got = hard_trace(network, x, torch.float32)
    assert same(got, expected)
    assert set(seen) == {exact.EXACT}, "a processor that rounds would have"
    assert exact.precision() == before
    assert torch.get_float32_matmul_precision() == asked


@pytest.mark.parametrize("record_too", [False, True])
def test_autocast_does_not_reach_the_hard_forward(network: SpikingNetwork, record_too: bool) -> None:
    x = torch.as_tensor(random_input(20, 10, 64, 4095, 0), dtype=torch.float32)
    with torch.no_grad():
        expected = network(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = network(x, {} if record_too else None)
    assert got.dtype == torch.float32
    assert torch.equal(got, expected)


def test_what_was_set_is_put_back_when_the_forward_fails() -> None:
    before = exact.precision()
    try:
        with exact.exact_products(torch.device("cpu")):
            assert exact.precision() == exact.EXACT
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert exact.precision() == before


# ---- sums, powers and logarithms


def halves(row: list[float]) -> float:
    """The sum as the docstring says it is taken, one float at a time."""
    while len(row) > 1:
        half = (len(row) + 1) // 2
        row = [a + b for a, b in zip(row[:half], [*row[half:], 0.0], strict=False)]
    return row[0]


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 1001])
def test_rows_are_added_in_one_order(n: int) -> None:
    x = torch.randn(5, n, generator=torch.Generator().manual_seed(n))
    assert exact.row_sums(x).flatten().tolist() == [halves(row) for row in x.double().tolist()]


@pytest.mark.parametrize("n", [3, 100, 1001])
def test_standardized_weights_are_those_of_float64_sums_in_one_order(n: int) -> None:
    w = torch.randn(40, n, generator=torch.Generator().manual_seed(n))
    expected = []
    for row in w.double().tolist():
        mean = halves(row) / n
        scale = math.sqrt(halves([(a - mean) * (a - mean) for a in row]) + 1e-4)
        expected.append([(a - mean) / scale for a in row])
    assert torch.equal(standardized(w), torch.tensor(expected, dtype=torch.float64).float())


def test_powers_are_what_libraries_give_to_the_last_bits() -> None:
    for x in (-7.5, -1.0, 0.0, 0.3, 2.0):
        assert math.isclose(exact.exp(x), math.exp(x), rel_tol=4e-16)
    assert [exact.power(x, 1.7) for x in (0.0, 1.0)] == [0.0, 1.0]
    assert math.isclose(exact.power(0.3, 1.7), 0.3**1.7, rel_tol=4e-16)


@given(st.floats(2.0**-40, 2.0**40))
def test_the_nearest_exponent_is_the_rounded_logarithm(x: float) -> None:
    logarithm = math.log2(x)
    if abs(logarithm % 1 - 0.5) > 1e-9:
        assert exact.nearest_exponent(x) == round(logarithm)


DIGEST = "from support.digest import digest_of_networks; print(digest_of_networks())"


@pytest.mark.parametrize(("capability", "threads"), [("default", 1), ("avx2", 2), ("", 2)])
def test_one_checkpoint_is_one_network_whatever_processor_torch_is_told_it_has(
    capability: str, threads: int, tmp_path: Path
) -> None:
    environment = os.environ | SUPPORTED | {"OMP_NUM_THREADS": str(threads), "ATEN_CPU_CAPABILITY": capability}
    environment = {key: value for key, value in environment.items() if value}
    command = [sys.executable, "-c", DIGEST]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == digest_of_networks(), done.stderr

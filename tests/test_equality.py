"""The promise: the hard forward in torch is the integer network, bit for bit, in every state of every step."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from conftest import KINDS, neuron_options, one_line, random_input, random_network, small_config
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from quantal.export.base.errors import BadInput
from quantal.export.base.fixed import Ints
from quantal.export.ir import interpret
from quantal.export.ir.network import Network
from quantal.export.ir.ops import Clamp, Lookup, MatVec, Mul, Shr, Step
from quantal.export.proof import intervals
from quantal.qat.arithmetic.grids import TableGrid
from quantal.qat.arithmetic.neurons import COUNT_MAX, NEURONS, RESETTING, TIMINGS
from quantal.qat.config.schema import STATES, WEIGHTS, Layer
from quantal.qat.lower import exact_dtype, lower
from quantal.qat.network.network import SpikingNetwork, hard_trace
from quantal.qat.quantizers.normalization import CURRENT_NORMS, NORMS
from quantal.qat.quantizers.states import AFTER_RESET, STATE_QUANTIZERS
from quantal.qat.quantizers.weights import WEIGHT_QUANTIZERS
from torch import Tensor
from torch.nn import functional

STEPS = 32
TABLED = [name for name, make in STATE_QUANTIZERS.items() if make is not None]
INTEGER_WEIGHTS = [(name, bits) for name, (_, widths) in WEIGHT_QUANTIZERS.items() for bits in widths]
INTEGER_STATES = [
    *product(["uniform"], range(2, 17)), *product(["shared"], (2, 3, 4, 8, 16)), *product(TABLED, range(1, 9))
]  # fmt: skip


def test_every_precision_of_the_vocabulary_is_covered() -> None:
    assert {bits for _, bits in INTEGER_WEIGHTS} == {bits for bits in WEIGHTS if isinstance(bits, int)}
    assert {bits for _, bits in INTEGER_STATES} == {bits for bits in STATES if isinstance(bits, int)}
    assert {name for name, _ in INTEGER_STATES} == set(STATE_QUANTIZERS)


@pytest.fixture(autouse=True, scope="module")
def _quick_search() -> Iterator[None]:
    """Fewer rounds for states that never settle, as spike counts: they keep their format's range all the sooner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "_PATIENCE", 200)
        yield


def assert_equal(network: SpikingNetwork, x: Ints) -> Network:
    """Torch and the interpreter leave the same records, in the same order, with the same values."""
    lowered = lower(network, "network")
    expected = interpret.run(lowered.network, x)
    got = hard_trace(network, x, exact_dtype(lowered))
    assert list(got) == list(expected)
    for name, values in expected.items():
        assert np.array_equal(got[name], values), name
    return lowered.network


def hidden(**options: Any) -> Layer:
    return Layer("hidden", 5, **{"gain": 2.0} | options)


# ---- every neuron, reset, timing; recurrent or not


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize(("reset", "timing"), RESETTING)
def test_lif_in_torch_is_lif_in_integers(reset: str, timing: str, recurrent: bool) -> None:
    spikes = 0
    for seed in range(3):
        layer = hidden(reset=reset, timing=timing, recurrent=recurrent, decay_per="neuron")
        network = random_network(layer, Layer("readout", 3, neuron="li"), channels=4, maximum=1, seed=seed)
        x = random_input(6, STEPS, 4, 1, seed)
        lowered = assert_equal(network, x)
        trace = interpret.run(lowered.network, x)
        spikes += len(np.unique(trace["hidden.spike"])) - 1
        assert "recurrent" in lowered.layers[0].weights or not recurrent
    assert spikes, "nothing fired, nothing was tested"


@pytest.mark.parametrize(("reset", "timing"), RESETTING)
def test_count_in_torch_is_count_in_integers(reset: str, timing: str) -> None:
    readout = Layer("readout", 3, neuron="count", reset=reset, timing=timing, gain=3.0)
    for first in (hidden(), hidden(recurrent=True)):
        network = random_network(first, readout, channels=4, maximum=3, seed=5)
        x = random_input(6, STEPS, 4, 3, 5)
        assert interpret.run(assert_equal(network, x), x)["output"].max() > 1


@pytest.mark.parametrize("pool", ["last", "max"])
@pytest.mark.parametrize("recurrent", [False, True])
def test_li_in_torch_is_li_in_integers(pool: str, recurrent: bool) -> None:
    readout = Layer("readout", 3, neuron="li", pool=pool)
    network = random_network(hidden(recurrent=recurrent), readout, channels=4, maximum=16, seed=6)
    x = random_input(6, STEPS, 4, 16, 6)
    output = interpret.run(assert_equal(network, x), x)["output"]
    assert np.ptp(output) > 0
    assert pool == "last" or (np.diff(output, axis=1) >= 0).all()


@pytest.mark.parametrize("neuron", ["li", "count"])
def test_a_recurrent_readout_is_refused(neuron: str) -> None:
    with pytest.raises(BadInput) as error:
        small_config(Layer("readout", 3, neuron=neuron, recurrent=True))
    one_line(error, "recurrent")


# ---- every precision


@pytest.mark.parametrize(("quantizer", "bits"), INTEGER_WEIGHTS)
@pytest.mark.parametrize("scale", ["row", "layer"])
def test_every_weight_precision_is_equal(quantizer: str, bits: int, scale: str) -> None:
    options: dict[str, Any] = {"weight_quantizer": quantizer, "weights": bits, "scale": scale}
    for recurrent in (False, True):
        network = random_network(
            hidden(recurrent=recurrent, **options), Layer("readout", 3, neuron="li", **options),
            channels=4, maximum=2, seed=7,
        )  # fmt: skip
        lowered = assert_equal(network, random_input(6, STEPS, 4, 2, 7))
        assert set(lowered.layers[0].weights) == ({"fan_in", "recurrent"} if recurrent else {"fan_in"})
        for layer in lowered.layers:
            for op in (op for op in layer.ops if isinstance(op, MatVec)):
                codes = layer.weights[op.weights]
                if op.levels:  # numbered from the least
                    assert list(op.levels) == sorted(op.levels) == [-level for level in reversed(op.levels)]
                    assert (codes.min() >= 0, codes.max() < len(op.levels) <= 2**bits) == (True, True)
                else:
                    assert np.abs(codes).max() <= 2 ** (bits - 1) - 1


@pytest.mark.parametrize(("quantizer", "states"), INTEGER_STATES)
@pytest.mark.parametrize("timing", TIMINGS)
def test_every_state_precision_is_equal_and_kept_to(quantizer: str, states: int, timing: str) -> None:
    options: dict[str, Any] = {"state_quantizer": quantizer, "states": states}
    tabled, moved = quantizer in TABLED, set()
    if quantizer == "shared" and states == 2 and timing != "immediate":
        timing = "delayed"  # whose threshold is 0, so that it cannot be subtracted
    for seed, state_range in product(range(2), (1.0, 8.0)):
        refused = states == 1 and quantizer not in AFTER_RESET  # one bit that is reset at once
        reset = "none" if refused and timing != "snntorch" else "subtract"
        if quantizer == "shared" and states == 2 and timing == "delayed":
            reset = "zero"
        if quantizer == "uniform" and timing != "delayed":
            state_range = min(state_range, 2.0 ** (states - 1))
        layer = hidden(timing=timing, reset=reset, recurrent=True, state_range=state_range, gain=4.0, **options)
        readout = Layer("readout", 3, neuron="li", state_range=state_range, gain=4.0, **options)
        network = random_network(layer, readout, channels=4, maximum=4, seed=states + 100 * seed)
        x = random_input(6, STEPS, 4, 4, states)
        lowered = assert_equal(network, x)
        trace = interpret.run(lowered.network, x)
        moved |= {name for name, values in trace.items() if np.ptp(values)}
        least = 0 if tabled else -(2 ** (states - 1))
        for name in ("hidden.u", "readout.u"):
            assert least <= trace[name].min() <= trace[name].max() < least + 2**states
        kinds = [{type(op) for op in layer.ops} for layer in lowered.layers]
        if tabled:  # β·level, a reset and a comparison are tables of the code
            assert all(Step in kind and not kind & {Mul, Shr, Clamp} for kind in kinds)
        else:
            assert not any(kind & {Step, Lookup} for kind in kinds)
    assert {"hidden.spike", "readout.u"} <= moved, "nothing moved, nothing was tested"


@pytest.mark.parametrize(("reset", "timing"), [kind for kind in RESETTING if kind[1] != "snntorch"])
def test_several_spikes_at_once_are_equal(reset: str, timing: str) -> None:
    counts = set()
    for spikes in (2, 3, 4):
        options: dict[str, Any] = {"spikes": spikes, "reset": reset, "timing": timing, "state_range": 16.0}
        network = random_network(
            hidden(recurrent=True, gain=6.0, **options), Layer("readout", 3, neuron="count", gain=4.0, **options),
            channels=4, maximum=4, seed=spikes,
        )  # fmt: skip
        x = random_input(6, STEPS, 4, 4, spikes)
        fired = interpret.run(assert_equal(network, x), x)["hidden.spike"]
        assert 0 == fired.min() < fired.max() <= spikes
        counts |= {*fired.flatten().tolist()}
    assert counts == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("norm", CURRENT_NORMS)
@pytest.mark.parametrize("quantizer", ["lsq", "maqd", "dq"])
def test_a_normalized_layer_is_equal_whatever_the_sign_of_its_gains(quantizer: str, norm: str, recurrent: bool) -> None:
    options: dict[str, Any] = {"norm": norm, "weight_quantizer": quantizer, "recurrent": recurrent}
    for seed, scale in product(range(3), ("row", "layer")):
        network = random_network(
            hidden(scale=scale, **options), Layer("readout", 3, neuron="li"), channels=4, maximum=3, seed=seed
        )
        first = network.stack[0]
        assert first.norm is not None
        with torch.no_grad():
            first.norm.gain[:3] = torch.tensor([-1.0, 0.0, 1.0])
        codes = assert_equal(network, random_input(6, STEPS, 4, 3, seed)).layers[0].weights["fan_in"]
        with torch.no_grad():
            first.norm.gain.abs_()
            positive = lower(network, "network").network.layers[0].weights["fan_in"]
        assert np.array_equal(codes[0], -positive[0])
        assert (codes[1] == 0).all()
        assert np.array_equal(codes[2], positive[2])


@pytest.mark.parametrize("spikes", [1, 3])
def test_neurons_without_a_memory_are_equal_and_keep_nothing(spikes: int) -> None:
    sent = set()
    for seed, norm in product(range(3), NORMS):
        options: dict[str, Any] = {"neuron": "step", "spikes": spikes, "norm": norm, "gain": 8.0}
        network = random_network(
            hidden(**options), replace(hidden(**options), name="second"), Layer("readout", 3, neuron="li"),
            channels=4, maximum=16, seed=seed,
        )  # fmt: skip
        x = random_input(12, 1, 4, 16, seed)
        lowered = assert_equal(network, x)
        trace = assert_plain(network, x)
        sent |= {*trace["hidden.spike"].flatten().tolist()}
        assert set(trace) == {"hidden.spike", "second.spike", "readout.u", "output"}
        for layer in lowered.layers[:2]:
            assert layer.states == ()
            assert not {type(op) for op in layer.ops} & {Clamp, Lookup, Mul, Shr, Step}
    assert sent == set(range(spikes + 1))


@pytest.mark.parametrize("decay_bits", range(1, 13))
def test_every_decay_is_equal(decay_bits: int) -> None:
    top = 1 << decay_bits
    leaks = [top - (top >> a) for a in range(decay_bits + 1)]
    for states, m in product((8, 16), sorted({*leaks, 1, top // 2 - 1, top - 2} & set(range(top)))):
        layer = hidden(states=states, decay_bits=decay_bits)
        readout = Layer("readout", 3, neuron="li", states=states, decay_bits=decay_bits)
        network = random_network(layer, readout, channels=4, maximum=16, seed=8)
        with torch.no_grad():
            for module in network.stack:
                module.decay.fill_(m / top)
        assert_equal(network, random_input(4, STEPS, 4, 16, 8))


@pytest.mark.parametrize("a", range(8, 13))
def test_a_pure_shift_leak_of_a_wide_membrane_is_exact_in_torch_too(a: int) -> None:
    """The integer network does not multiply here, so its values alone do not say what torch's product u·m needs."""
    readout = Layer("readout", 8, neuron="li", weights=8, states=16, decay_bits=12, state_range=64.0)
    network = random_network(readout, channels=6, maximum=16, seed=9)
    with torch.no_grad():
        network.stack[0].decay.fill_(1 - 0.5**a)
    x = random_input(8, 300, 6, 16, 9)
    lowered = assert_equal(network, x)
    assert not any(isinstance(op, Mul) for op in lowered.layers[0].ops)
    assert np.abs(interpret.run(lowered.network, x)["readout.u"]).max() > 2**14


# ---- everything at random


@st.composite
def layers(draw: st.DrawFn, name: str, neurons: list[str], recurrent: st.SearchStrategy[bool]) -> Layer:
    """Any layer that the configuration allows."""
    weight_quantizer, weights = draw(st.sampled_from(INTEGER_WEIGHTS))
    neuron = draw(st.sampled_from(neurons))
    kept = [kind for kind in INTEGER_STATES if neuron != "alpha" or kind[0] == "uniform"]
    state_quantizer, states = draw(st.sampled_from(kept))
    tabled = state_quantizer in TABLED
    norms = ("none", "psp") if NEURONS[neuron].readout or tabled else NORMS
    size = draw(st.integers(1, 5))
    standardize = weight_quantizer != "maqd" and draw(st.booleans())
    standardized = standardize or weight_quantizer == "maqd"  # of a single weight nothing is left
    layer = Layer(
        name=name,
        size=size,
        neuron=neuron,
        recurrent=(size > 1 or not standardized) and not NEURONS[neuron].stateless and draw(recurrent),
        weights=weights,
        weight_quantizer=weight_quantizer,
        states=states,
        state_quantizer=state_quantizer,
        scale=draw(st.sampled_from(["row", "layer"])),
        state_range=draw(st.sampled_from([1.0, 3.7, 64.0])),
        decay_bits=draw(st.integers(1, 12)),
        decay_per=draw(st.sampled_from(["layer", "neuron"])),
        threshold=draw(st.sampled_from([0.1, 1.0, 30.0])),
        threshold_per="auto" if tabled else draw(st.sampled_from(["layer", "neuron"])),
        bias=draw(st.booleans()),
        pool=draw(st.sampled_from(["last", "max"])) if neuron == "li" else "last",
        norm=draw(st.sampled_from(norms)),
        standardize=standardize,
        gain=draw(st.sampled_from([0.5, 2.0, 20.0])),
        **draw(neuron_options(neuron, state_quantizer, states)),
    )
    assume(works(layer))
    return layer


def works(layer: Layer) -> bool:
    """Whether its states have room for its thresholds: else it is refused, see test_quantizers.py."""
    fires, subtracted = NEURONS[layer.neuron].fires, layer.reset == "subtract"
    if not fires or layer.after_reset or NEURONS[layer.neuron].stateless:
        return True
    if layer.state_quantizer == "uniform":
        return not subtracted or layer.timing == "delayed" or layer.state_range < 2 ** int(layer.states)
    needed = 2 * layer.spikes if subtracted or layer.spikes > 1 else 0
    return layer.state_quantizer != "shared" or 2 ** (int(layer.states) - 1) - 1 >= needed


HIDDEN = st.integers(0, 2).flatmap(
    lambda count: st.tuples(*(layers(f"l{i}", ["lif", "alpha", "step"], st.booleans()) for i in range(count)))
)


@given(HIDDEN, layers("readout", ["li", "count"], st.just(False)), st.sampled_from([1, 3, 16]), st.integers(0, 2**31))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_network_is_equal_at_every_step(stack: tuple[Layer, ...], readout: Layer, maximum: int, seed: int) -> None:
    fed_by_one = [layer for layer, before in zip((*stack, readout)[1:], stack, strict=True) if before.size == 1]
    assume(not any(layer.weight_quantizer == "maqd" or layer.standardize for layer in fed_by_one))
    network = random_network(*stack, readout, channels=3, maximum=maximum, seed=seed)
    assert_equal(network, random_input(5, STEPS, 3, maximum, seed))


def test_a_bit_that_is_reset_at_once_is_the_spike_and_is_refused() -> None:
    """The integer network would have one record for both, the trace two."""
    with pytest.raises(BadInput) as error:
        small_config(hidden(states=1, state_quantizer="squat", timing="immediate"), Layer("readout", 3, neuron="li"))
    one_line(error, "timing")


# ---- an independent reference, in plain integers


def half_up(x: int, shift: int) -> int:
    """x / 2^shift, rounded half up."""
    return (2 * x + 2**shift) // 2 ** (shift + 1)


def plain_steps(network: SpikingNetwork, x: list[list[int]]) -> list[dict[str, list[int]]]:
    """The first layer's states and spikes after each step on one sample, from the equations of a neuron alone."""
    layer = network.stack[0]
    config, integers, p = layer.config, layer.integers(), layer.integers().params
    size, alpha = config.size, config.neuron == "alpha"
    fan_in_shift, recurrent_shift, state_shift = layer.shifts.tolist()

    def ints(values: Tensor | None) -> list[Any]:
        return [0] * size if values is None else values.to(torch.int64).tolist()

    def each(table: Tensor | None) -> list[int]:
        return ints(None if table is None else table.expand(size))

    weights, bias, adaptation, theta = (
        ints(integers.codes), ints(integers.bias), each(p.adaptation), each(p.threshold)
    )  # fmt: skip
    recurrent = [[0] * size] * size if integers.recurrent is None else ints(integers.recurrent)
    decays = {name: each(getattr(p, name)) for name in ("decay", "synapse_decay", "adaptation_decay")}
    if config.decay == 1:  # a membrane that does not leak
        decays["decay"] = [2**p.decay_bits] * size
    lo, hi = -(2 ** (config.states - 1)), 2 ** (config.states - 1) - 1  # type: ignore[operator]
    table = p.grid if isinstance(p.grid, TableGrid) else None
    borders, levels = (ints(table.borders), ints(table.levels)) if table else ([], [])

    def encode(level: int) -> int:
        return sum(b <= level for b in borders) if table else min(max(half_up(level, state_shift), lo), hi)

    def decode(code: int) -> int:
        return int(levels[code]) if table else code * 2**state_shift

    def trace(level: int) -> int:
        return min(max(half_up(level, p.trace.shift), lo), hi)

    def leaked(level: int, decay: str, j: int) -> int:
        return half_up(level * decays[decay][j], p.decay_bits)

    def fired(level: int, theta: int) -> int:
        return sum(level > k * theta for k in range(1, 2 * p.spikes, 2))

    def reset(level: int, theta: int, count: int) -> int:
        rest = {"subtract": level - (2 * count - 1) * theta, "none": level}
        return rest.get(p.reset, 0) if count else level

    def neuron(j: int, current: int, old: dict[str, int]) -> dict[str, int]:
        if config.neuron == "step":
            return old | {"spike": fired(current, theta[j])}
        new, before = dict(old), decode(old["u"])
        if alpha:
            for name, decay, more in (("e", "synapse_decay", current), ("h", "decay", -current)):
                level = leaked(old[name] << p.trace.shift, decay, j) + more
                new[name] = trace(reset(level, 0, old["spike"]))
            return new | {"spike": int((new["e"] + new["h"]) << p.trace.shift > theta[j])}
        if config.synapse == "exponential":
            new["i"] = trace(leaked(old["i"] << p.trace.shift, "synapse_decay", j) + current)
            current = new["i"] << p.trace.shift
        raised = leaked(old["a"] << p.trace.shift, "adaptation_decay", j) + old["spike"] * adaptation[j]
        new["a"] = trace(raised) if config.adaptation else 0
        passed, threshold = (theta[j] + (code << p.trace.shift) for code in (old["a"], new["a"]))
        new["rest"] = config.refractory if old["spike"] else max(old["rest"] - 1, 0)
        sent = old["spike"] if config.adaptation or config.refractory else fired(before, passed)
        if p.reset == "zero-before":
            before = reset(before, passed, sent)
        level = leaked(before, "decay", j) + current
        if p.timing != "immediate" and p.reset != "zero-before":
            level = reset(level, passed, sent)
        new["u"] = encode(level)
        if not p.grid.after_reset:
            level = decode(new["u"])
        new["spike"] = 0 if new["rest"] else fired(level, threshold)
        if p.timing == "immediate" and p.reset != "none":
            new["u"] = encode(reset(level, threshold, new["spike"]))
        elif p.timing == "snntorch":
            new["u"] = encode(level - (new["spike"] - sent) * threshold)
        return new

    first = dict.fromkeys(("i", "a", "rest", "spike", "e", "h"), 0) | {"u": encode(0)}
    state, steps = [first] * size, []
    for inputs in x:
        spikes = [one["spike"] for one in state]  # all neurons read the old state
        for j, old in enumerate(tuple(state)):
            current = sum(w * v for w, v in zip(weights[j], inputs, strict=True)) * 2**fan_in_shift + bias[j]
            current += sum(w * s for w, s in zip(recurrent[j], spikes, strict=True)) * 2**recurrent_shift
            state = [*state[:j], neuron(j, current, old), *state[j + 1 :]]
        steps.append({name: [one[name] for one in state] for name in first})
    return steps


def assert_plain(network: SpikingNetwork, x: Ints) -> interpret.Trace:
    """The interpreter's trace of a network, whose layer `hidden` has the states and spikes of the plain equations."""
    trace = interpret.run(lower(network, "network").network, x)
    records = [name.partition(".")[2] for name in trace if name.startswith("hidden.")]
    assert records[-1] == "spike"
    for sample in range(len(x)):
        expected = plain_steps(network, x[sample].tolist())
        for record in records:
            assert trace[f"hidden.{record}"][sample].tolist() == [step[record] for step in expected], record
    return trace


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize(("reset", "timing"), RESETTING)
def test_the_interpreter_computes_the_equations_of_the_lif(reset: str, timing: str, recurrent: bool) -> None:
    kinds = [("uniform", 2, 1), ("uniform", 4, 3), ("uniform", 8, 1), ("uniform", 14, 4), ("shared", 8, 1)]
    kinds += [("aligned", 1, 1), ("aligned", 3, 1), ("squat-threshold", 4, 1), ("squat", 8, 1), ("dq", 5, 1)]
    for seed, (quantizer, states, spikes) in enumerate(kinds, 10):
        layer = hidden(
            reset=reset, timing=timing, recurrent=recurrent, states=states, state_quantizer=quantizer,
            spikes=1 if timing == "snntorch" else spikes, decay_per="neuron", weights=6, gain=8.0,
        )  # fmt: skip
        network = random_network(layer, Layer("readout", 2, neuron="li"), channels=3, maximum=3, seed=seed)
        x = random_input(4, STEPS, 3, 3, seed)
        assert assert_plain(network, x)["hidden.spike"].any()


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_interpreter_computes_the_equations_of_every_kind_of_neuron(kind: str, recurrent: bool) -> None:
    options, fired = KINDS[kind], 0
    for states, seed in ((2, 20), (4, 21), (8, 22), (12, 23)):
        layer = hidden(**{"states": states, "recurrent": recurrent, "weights": 6, "gain": 8.0} | options)
        network = random_network(layer, Layer("readout", 2, neuron="li"), channels=3, maximum=3, seed=seed)
        x = random_input(4, STEPS, 3, 3, seed)
        assert_equal(network, x)
        trace = assert_plain(network, x)
        fired += len(np.unique(trace["hidden.spike"])) - 1
    assert fired, "nothing fired, nothing was tested"
    assert all(np.ptp(values) for name, values in trace.items() if name.startswith("hidden."))


@st.composite
def one_layer(draw: st.DrawFn) -> Layer:
    """Any layer that comes first, but that its states have names and a bias."""
    return replace(draw(layers("hidden", ["lif", "alpha", "step"], st.booleans())), bias=True)


@given(one_layer(), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_interpreter_computes_the_equations_of_any_layer(layer: Layer, seed: int) -> None:
    network = random_network(layer, Layer("readout", 2, neuron="li"), channels=3, maximum=3, seed=seed)
    assert_plain(network, random_input(3, STEPS, 3, 3, seed))


@pytest.mark.parametrize("neuron", ["li", "count"])
def test_the_readouts_pool_what_they_say(neuron: str) -> None:
    for pool in ("last", "max") if neuron == "li" else ("last",):
        readout = Layer("readout", 3, neuron=neuron, pool=pool, gain=3.0)
        network = random_network(readout, channels=3, maximum=2, seed=3)
        x = random_input(4, STEPS, 3, 2, 3)
        trace = interpret.run(lower(network, "network").network, x)
        if neuron == "count":
            spikes = np.array([[step["spike"] for step in plain_steps(network, sample.tolist())] for sample in x])
            assert spikes.any()
            assert np.array_equal(trace["output"], np.minimum(np.cumsum(spikes, axis=1), COUNT_MAX))
        elif pool == "max":
            assert np.array_equal(trace["output"], np.maximum.accumulate(trace["readout.u"], axis=1))
        else:
            assert np.array_equal(trace["output"], trace["readout.u"])


# ---- full precision is the plain equation; training has gradients


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize(("reset", "timing"), RESETTING)
def test_full_precision_is_the_real_valued_equation_in_float64(reset: str, timing: str, recurrent: bool) -> None:
    layer = hidden(weights="float", states="float", reset=reset, timing=timing, recurrent=recurrent)
    readout = Layer("readout", 2, neuron="li", weights="float", states="float")
    network = random_network(layer, readout, channels=3, maximum=3, seed=4)
    with torch.no_grad():  # multiples of 2^-8, so that no order of summation rounds
        for parameter in network.parameters():
            parameter.copy_(torch.round(parameter * 256) / 256)
    x = random_input(4, STEPS, 3, 3, 4).astype(np.float64)
    record: dict[str, Tensor] = {}
    with torch.no_grad():
        output = network(torch.from_numpy(x), record).numpy()
    first, last = network.stack
    unit = 2.0**-16  # of a membrane in full precision; a power of two, so that scaling rounds nothing

    def real(value: Tensor | None) -> np.ndarray:
        return np.zeros(1) if value is None else value.detach().numpy().astype(np.float64)

    u, s, v = np.zeros((4, 5)), np.zeros((4, 5)), np.zeros((4, 2))
    for t in range(STEPS):
        current = x[:, t] @ real(first.weight).T
        if recurrent:
            current = current + s @ real(first.recurrent).T
        fired = u > real(first.threshold)
        u = np.where(fired, 0.0, u) if reset == "zero-before" else u
        u = real(first.decay) * u + (current + real(first.bias))
        if timing != "immediate" and reset == "subtract":
            u = u - fired * real(first.threshold)
        elif timing == "delayed" and reset == "zero":
            u = np.where(fired, 0.0, u)
        s = (u > real(first.threshold)) * 1.0
        if timing == "immediate" and reset == "subtract":
            u = u - s * real(first.threshold)
        elif timing == "immediate" and reset == "zero":
            u = np.where(s, 0.0, u)
        elif timing == "snntorch":
            u = u - (s - fired) * real(first.threshold)
        v = real(last.decay) * v + (s @ real(last.weight).T + real(last.bias))
        assert np.array_equal(record["hidden.u"][:, t].numpy() * unit, u), t
        assert np.array_equal(output[:, t] * unit, v), t
    assert output.any()


@pytest.mark.parametrize("readout", ["li", "count"])
@pytest.mark.parametrize(("reset", "timing"), RESETTING)
@pytest.mark.parametrize(("weights", "quantizer"), [(1, "lsq"), (2, "lsq"), (4, "lsq"), (8, "lsq"), (2, "tquant")])
def test_gradients_on_the_integer_grid_are_finite_and_reach_every_parameter(
    weights: int, quantizer: str, reset: str, timing: str, readout: str
) -> None:
    options: dict[str, Any] = {"weights": weights, "weight_quantizer": quantizer, "reset": reset, "timing": timing}
    first = Layer("hidden", 12, recurrent=True, **options)
    last = Layer("readout", 3, neuron=readout, **options)
    network = SpikingNetwork(small_config(first, last), 8, 1)
    x = torch.from_numpy(random_input(16, 50, 8, 1, 0)).to(torch.float32)
    loss = functional.cross_entropy(network.logits(x), torch.arange(16) % 3)
    loss.backward()
    names = {name for name, _ in network.named_parameters()}
    assert {f"layers.0.{n}" for n in ("weight", "recurrent", "unit_gain", "threshold", "decay", "bias")} <= names
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
        assert parameter.grad.abs().max() < 1e4, name


@pytest.mark.parametrize("readout", ["li", "count"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter_of_every_kind_of_neuron(kind: str, readout: str) -> None:
    options = {"size": 12, "recurrent": True, "gain": 3.0} | KINDS[kind]
    kept = {name: value for name, value in options.items() if name.startswith(("decay", "synapse"))}
    last = Layer("readout", 3, neuron=readout, **kept)
    network = SpikingNetwork(small_config(Layer("hidden", **options), last), 8, 1)
    x = torch.from_numpy(random_input(16, 50, 8, 1, 0)).to(torch.float32)
    functional.cross_entropy(network.logits(x), torch.arange(16) % 3).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert 0 < float(parameter.grad.abs().max()) < 1e4, name


def test_full_precision_is_not_exported() -> None:
    for options in ({"weights": "float"}, {"states": "float"}):
        chosen: dict[str, Any] = options
        network = SpikingNetwork(small_config(hidden(**chosen), Layer("readout", 2, neuron="li", **chosen)), 3, 1)
        with pytest.raises(BadInput) as error:
            lower(network, "network")
        one_line(error, "layer hidden", next(iter(options)), "full precision")

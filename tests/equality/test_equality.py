"""The promise: the hard forward in torch is the integer network, bit for bit, in every state of every step."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from quantal.export.base.errors import BadInput
from quantal.export.ir import interpret
from quantal.export.ir.ops import Clamp, Lookup, MatVec, Mul, Shr, Step
from quantal.qat.arithmetic.neurons import RESETTING, TIMINGS
from quantal.qat.config.parts.layers import Layer
from quantal.qat.config.precision import STATE_BITS, WEIGHT_BITS
from quantal.qat.lower import lower
from quantal.qat.quantizers.normalization import CURRENT_NORMS, NORMS
from quantal.qat.quantizers.states import AFTER_RESET, STATE_QUANTIZERS
from support.equality import INTEGER_STATES, INTEGER_WEIGHTS, STEPS, TABLED, assert_equal, assert_plain, hidden, layers
from support.layers import a_layer, replace
from support.messages import one_line
from support.torch_networks import random_input, random_network, small_config

pytestmark = pytest.mark.usefixtures("quick_search")


def test_every_precision_of_the_vocabulary_is_covered() -> None:
    assert {bits for _, bits in INTEGER_WEIGHTS} == {bits for bits in WEIGHT_BITS if isinstance(bits, int)}
    assert {bits for _, bits in INTEGER_STATES} == {bits for bits in STATE_BITS if isinstance(bits, int)}
    assert {name for name, _ in INTEGER_STATES} == set(STATE_QUANTIZERS)


# ---- every neuron, reset, timing; recurrent or not


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize(("reset", "timing"), RESETTING)
def test_lif_in_torch_is_lif_in_integers(reset: str, timing: str, recurrent: bool) -> None:
    spikes = 0
    for seed in range(3):
        layer = hidden(reset=reset, timing=timing, recurrent=recurrent, decay_per="neuron")
        network = random_network(layer, a_layer("readout", 3, neuron="li"), channels=4, maximum=1, seed=seed)
        x = random_input(6, STEPS, 4, 1, seed)
        lowered = assert_equal(network, x)
        trace = interpret.run(lowered, x)
        spikes += len(np.unique(trace["hidden.spike"])) - 1
        assert "recurrent" in lowered.layers[0].weights or not recurrent
    assert spikes, "nothing fired, nothing was tested"


@pytest.mark.parametrize(("reset", "timing"), RESETTING)
def test_count_in_torch_is_count_in_integers(reset: str, timing: str) -> None:
    readout = a_layer("readout", 3, neuron="count", reset=reset, timing=timing, gain=3.0)
    for first in (hidden(), hidden(recurrent=True)):
        network = random_network(first, readout, channels=4, maximum=3, seed=5)
        x = random_input(6, STEPS, 4, 3, 5)
        assert interpret.run(assert_equal(network, x), x)["output"].max() > 1


@pytest.mark.parametrize("pool", ["last", "max"])
@pytest.mark.parametrize("recurrent", [False, True])
def test_li_in_torch_is_li_in_integers(pool: str, recurrent: bool) -> None:
    readout = a_layer("readout", 3, neuron="li", pool=pool)
    network = random_network(hidden(recurrent=recurrent), readout, channels=4, maximum=16, seed=6)
    x = random_input(6, STEPS, 4, 16, 6)
    output = interpret.run(assert_equal(network, x), x)["output"]
    assert np.ptp(output) > 0
    assert pool == "last" or (np.diff(output, axis=1) >= 0).all()


@pytest.mark.parametrize("neuron", ["li", "count"])
def test_a_recurrent_readout_is_refused(neuron: str) -> None:
    with pytest.raises(BadInput) as error:
        small_config(a_layer("readout", 3, neuron=neuron, recurrent=True))
    one_line(error, "recurrent")


# ---- every precision


@pytest.mark.parametrize(("quantizer", "bits"), INTEGER_WEIGHTS)
@pytest.mark.parametrize("scale", ["row", "layer"])
def test_every_weight_precision_is_equal(quantizer: str, bits: int, scale: str) -> None:
    options: dict[str, Any] = {"weight_quantizer": quantizer, "weights": bits, "scale": scale}
    for recurrent in (False, True):
        network = random_network(
            hidden(recurrent=recurrent, **options), a_layer("readout", 3, neuron="li", **options),
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
        readout = a_layer("readout", 3, neuron="li", state_range=state_range, gain=4.0, **options)
        network = random_network(layer, readout, channels=4, maximum=4, seed=states + 100 * seed)
        x = random_input(6, STEPS, 4, 4, states)
        lowered = assert_equal(network, x)
        trace = interpret.run(lowered, x)
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
            hidden(recurrent=True, gain=6.0, **options), a_layer("readout", 3, neuron="count", gain=4.0, **options),
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
            hidden(scale=scale, **options), a_layer("readout", 3, neuron="li"), channels=4, maximum=3, seed=seed
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
            hidden(**options), replace(hidden(**options), name="second"), a_layer("readout", 3, neuron="li"),
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
        readout = a_layer("readout", 3, neuron="li", states=states, decay_bits=decay_bits)
        network = random_network(layer, readout, channels=4, maximum=16, seed=8)
        with torch.no_grad():
            for module in network.stack:
                module.decay.fill_(m / top)
        assert_equal(network, random_input(4, STEPS, 4, 16, 8))


@pytest.mark.parametrize("a", range(8, 13))
def test_a_pure_shift_leak_of_a_wide_membrane_is_exact_in_torch_too(a: int) -> None:
    """The integer network does not multiply here, so its values alone do not say what torch's product u·m needs."""
    readout = a_layer("readout", 8, neuron="li", weights=8, states=16, decay_bits=12, state_range=64.0)
    network = random_network(readout, channels=6, maximum=16, seed=9)
    with torch.no_grad():
        network.stack[0].decay.fill_(1 - 0.5**a)
    x = random_input(8, 300, 6, 16, 9)
    lowered = assert_equal(network, x)
    assert not any(isinstance(op, Mul) for op in lowered.layers[0].ops)
    assert np.abs(interpret.run(lowered, x)["readout.u"]).max() > 2**14


HIDDEN = st.integers(0, 2).flatmap(
    lambda count: st.tuples(*(layers(f"l{i}", ["lif", "alpha", "step"], st.booleans()) for i in range(count)))
)


@given(HIDDEN, layers("readout", ["li", "count"], st.just(False)), st.sampled_from([1, 3, 16]), st.integers(0, 2**31))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_network_is_equal_at_every_step(stack: tuple[Layer, ...], readout: Layer, maximum: int, seed: int) -> None:
    fed_by_one = [layer for layer, before in zip((*stack, readout)[1:], stack, strict=True) if before.size == 1]
    assume(not any(layer.weights.quantizer == "maqd" or layer.weights.standardize for layer in fed_by_one))
    network = random_network(*stack, readout, channels=3, maximum=maximum, seed=seed)
    assert_equal(network, random_input(5, STEPS, 3, maximum, seed))


def test_a_bit_that_is_reset_at_once_is_the_spike_and_is_refused() -> None:
    """The integer network would have one record for both, the trace two."""
    with pytest.raises(BadInput) as error:
        small_config(hidden(states=1, state_quantizer="squat", timing="immediate"), a_layer("readout", 3, neuron="li"))
    one_line(error, "timing")

"""The interpreter computes the equations of every neuron, written again in plain integers."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantal.export.ir import interpret
from quantal.qat.arithmetic.neurons import COUNT_MAX, RESETTING
from quantal.qat.config.parts.layers import Layer
from quantal.qat.lower import lower
from support.equality import STEPS, assert_equal, assert_plain, hidden, layers, plain_steps
from support.layers import a_layer, replace
from support.neurons import KINDS
from support.torch_networks import random_input, random_network

pytestmark = pytest.mark.usefixtures("quick_search")


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
        network = random_network(layer, a_layer("readout", 2, neuron="li"), channels=3, maximum=3, seed=seed)
        x = random_input(4, STEPS, 3, 3, seed)
        assert assert_plain(network, x)["hidden.spike"].any()


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_interpreter_computes_the_equations_of_every_kind_of_neuron(kind: str, recurrent: bool) -> None:
    options, fired = KINDS[kind], 0
    for states, seed in ((2, 20), (4, 21), (8, 22), (12, 23)):
        layer = hidden(**{"states": states, "recurrent": recurrent, "weights": 6, "gain": 8.0} | options)
        network = random_network(layer, a_layer("readout", 2, neuron="li"), channels=3, maximum=3, seed=seed)
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
    network = random_network(layer, a_layer("readout", 2, neuron="li"), channels=3, maximum=3, seed=seed)
    assert_plain(network, random_input(3, STEPS, 3, 3, seed))


@pytest.mark.parametrize("neuron", ["li", "count"])
def test_the_readouts_pool_what_they_say(neuron: str) -> None:
    for pool in ("last", "max") if neuron == "li" else ("last",):
        readout = a_layer("readout", 3, neuron=neuron, pool=pool, gain=3.0)
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

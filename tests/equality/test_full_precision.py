"""Full precision is the plain equation in real numbers, and training has gradients on the integer grid."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from quantal.export.base.errors import BadInput
from quantal.qat.arithmetic.neurons import RESETTING
from quantal.qat.lower import lower
from quantal.qat.network.network import SpikingNetwork
from support.equality import STEPS, hidden
from support.layers import a_layer
from support.messages import one_line
from support.neurons import KINDS
from support.torch_networks import random_input, random_network, small_config

pytestmark = pytest.mark.usefixtures("quick_search")

# ---- full precision is the plain equation; training has gradients


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize(("reset", "timing"), RESETTING)
def test_full_precision_is_the_real_valued_equation_in_float64(reset: str, timing: str, recurrent: bool) -> None:
    layer = hidden(weights="float", states="float", reset=reset, timing=timing, recurrent=recurrent)
    readout = a_layer("readout", 2, neuron="li", weights="float", states="float")
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
    first = a_layer("hidden", 12, recurrent=True, **options)
    last = a_layer("readout", 3, neuron=readout, **options)
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
    last = a_layer("readout", 3, neuron=readout, **kept)
    network = SpikingNetwork(small_config(a_layer("hidden", **options), last), 8, 1)
    x = torch.from_numpy(random_input(16, 50, 8, 1, 0)).to(torch.float32)
    functional.cross_entropy(network.logits(x), torch.arange(16) % 3).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert 0 < float(parameter.grad.abs().max()) < 1e4, name


def test_full_precision_is_not_exported() -> None:
    for options in ({"weights": "float"}, {"states": "float"}):
        chosen: dict[str, Any] = options
        network = SpikingNetwork(small_config(hidden(**chosen), a_layer("readout", 2, neuron="li", **chosen)), 3, 1)
        with pytest.raises(BadInput) as error:
            lower(network, "network")
        one_line(error, "layer hidden", next(iter(options)), "full precision")

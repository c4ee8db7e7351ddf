"""Whose each axis of a tensor is: said of every tensor of every kind of layer, and true of what it computes."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from quantal.qat.config.parts.layers import Conv
from quantal.qat.config.parts.weights import Lsq
from quantal.qat.engine import cpu
from quantal.qat.network.axes import AXES, BACK, NOBODY, OWN, SEEN, taken
from quantal.qat.network.layer import SpikingLayer
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.quantizers.normalization import NORMS
from quantal.qat.quantizers.states import STATE_QUANTIZERS
from quantal.qat.quantizers.weights import WEIGHT_QUANTIZERS
from support.graphs import GRAPHS, graph
from support.layers import a_layer
from support.networks import input_for
from support.neurons import KINDS
from support.torch_networks import random_network

CHAINS: dict[str, dict[str, Any]] = {  # options of all three layers, or of the two hidden ones
    **{f"weights {k}": {"weight_quantizer": k, "weights": bits[-1]} for k, (_, bits) in WEIGHT_QUANTIZERS.items()},
    **{f"states {name}": {"state_quantizer": name, "states": 4} for name in STATE_QUANTIZERS},
    **{f"norm {name}": {"norm": name} for name in NORMS},
    **KINDS,
    "learned bits": {"weights": "learned"},
    "diagonal": {"recurrent": "diagonal"},
    "standardized": {"standardize": True, "norm": "psp"},
    "one scale": {"scale": "layer", "threshold_per": "layer", "norm": "psp"},
    "constants of each neuron": {"decay_per": "neuron", "adaptation": 0.5, "synapse": "exponential"},
    "step": {"neuron": "step", "norm": "psp"},
    "full precision": {"weights": "float", "states": "float", "norm": "psp", "weight_quantizer": "dq"},
}  # fmt: skip
READOUT = ("weights", "weight_quantizer", "state_quantizer", "states", "standardize")


@pytest.fixture(autouse=True)
def _in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own reading of the step: nothing is trained, and compiling the engine costs more than it gives."""
    monkeypatch.setattr(cpu, "available", lambda: False)


def chain(options: dict[str, Any]) -> SpikingNetwork:
    """A layer of 7, one of 5 that is recurrent where it may be, and a readout of 3, all of sizes of their own."""
    norm = {"norm": "psp"} if options.get("norm") == "psp" else {}
    own = {"gain": 4.0} | options
    recurrent = own.pop("recurrent", options.get("neuron") != "step")
    layers = a_layer("first", 7, **own), a_layer("second", 5, recurrent=recurrent, **own)
    own = {k: v for k, v in options.items() if k in READOUT}
    readout = a_layer("out", 3, neuron="li", state_range=16.0, **norm, **own)
    budget = 100_000 if options.get("weights") == "learned" else 0
    return random_network(*layers, readout, channels=4, maximum=1, seed=3, budget=budget)


def everything() -> list[SpikingNetwork]:
    """Networks of every kind of layer."""
    return [chain(options) for options in CHAINS.values()] + [SpikingNetwork(graph(name), 64, 16) for name in GRAPHS]


def seen_by(layer: SpikingLayer, name: str) -> int:
    """How many values a row of that tensor sees."""
    if layer.window is None or name == "weight":
        return layer.weight.shape[1]
    return layer.window.shape[0]


def test_every_axis_of_every_tensor_is_somebodys_and_as_long_as_they_are_many() -> None:
    met: set[str] = set()
    for network in everything():
        for layer in network.stack:
            for name, tensor in layer.state_dict().items():
                met.add(name)
                axes = AXES[name]
                assert tensor.ndim in (0, len(axes)), name
                for whose, length in zip(axes, tensor.shape, strict=False):
                    many = {OWN: layer.rows, SEEN: seen_by(layer, name), BACK: layer.rows, NOBODY: length}[whose]
                    assert length == many or (length == 1 and whose in (OWN, BACK)), (layer.config, name)
    assert met == set(AXES)


def reordered(network: SpikingNetwork, at: int, order: Tensor) -> SpikingNetwork:
    """The same network with the neurons of a layer in another order."""
    other = SpikingNetwork(network.config, network.channels, network.maximum)
    entries = {at: {OWN: order, BACK: order}, at + 1: {SEEN: order}}
    for number, (layer, copy) in enumerate(zip(network.stack, other.stack, strict=True)):
        tensors = {name: taken(name, t, entries.get(number, {})) for name, t in layer.state_dict().items()}
        copy.load_state_dict(tensors)
    return other.eval()


def trace(network: SpikingNetwork, x: np.ndarray) -> dict[str, Tensor]:
    record: dict[str, Tensor] = {}
    with torch.no_grad():
        record["output"] = network(torch.from_numpy(x).double(), record)
    return record


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("options", CHAINS.values(), ids=CHAINS)
def test_neurons_in_another_order_do_what_they_did(options: dict[str, Any], at: int) -> None:
    network = chain(options)
    if options.get("weights") == "float":
        network.double()
    x = input_for(network, 6, 9, 1)
    order = torch.from_numpy(np.random.default_rng(at).permutation(network.stack[at].rows))
    other = reordered(network, at, order)
    if options.get("weights") == "float":
        other.double()
    before, after, name = trace(network, x), trace(other, x), network.stack[at].config.name
    assert set(before) == set(after)
    for record, values in before.items():
        expected = values[..., order] if record.startswith(f"{name}.") else values
        if options.get("weights") != "float" or record.endswith("spike"):  # sums of reals are in another order too
            assert torch.equal(after[record], expected), record


@pytest.mark.parametrize("norm", ["none", "psp", "batch"])
def test_channels_in_another_order_do_what_they_did(norm: str) -> None:
    """A convolution that sees another: each channel has a column for each place of its kernel."""
    kernels: dict[str, Any] = {"kernel": (2, 2), "stride": (1, 1), "padding": (0, 0), "weights": Lsq(gain=4.0)}
    first = Conv(name="first", shape=(2, 4, 4), channels=3, **kernels)
    second = Conv(name="second", shape=(3, 3, 3), channels=4, norm=norm, **kernels)
    network = random_network(first, second, a_layer("out", 3, neuron="li"), channels=32, maximum=1, seed=2)
    order, places = torch.tensor([2, 0, 1]), torch.arange(9)
    other = SpikingNetwork(network.config, 32, 1)
    for number, (layer, copy) in enumerate(zip(network.stack, other.stack, strict=True)):
        tensors = layer.state_dict()
        for name, tensor in tensors.items():
            if number == 0:
                tensors[name] = taken(name, tensor, {OWN: order})
            if number == 1:
                each = tensor.shape[-1] // 3 if name == "weight" else 1
                columns = (order[:, None] * each + torch.arange(each)).flatten()
                tensors[name] = taken(name, tensor, {SEEN: columns})
        copy.load_state_dict(tensors)
    x = input_for(network, 6, 9, 1)
    before, after = trace(network, x), trace(other.eval(), x)
    neurons = (order[:, None] * 9 + places).flatten()
    for record, values in before.items():
        assert torch.equal(after[record], values[..., neurons] if record.startswith("first.") else values), record
    assert before["second.spike"].any()


def test_a_tensor_of_one_entry_is_one_for_all() -> None:
    decay = torch.tensor([0.5])
    assert torch.equal(taken("decay", decay, {OWN: torch.tensor([2, 0])}), decay)
    assert torch.equal(taken("norm.mean", torch.tensor(3.0), {OWN: torch.tensor([2, 0])}), torch.tensor(3.0))

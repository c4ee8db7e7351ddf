"""Networks that are silent, constant or saturated: calibrated as any other, and said to be so in words."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quantal.export.ir import interpret
from quantal.qat.engine import cpu
from quantal.qat.lower import exact_dtype, lower
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.network.trace import hard_trace
from quantal.qat.quantizers.states import STATE_QUANTIZERS
from quantal.qat.quantizers.weights import WEIGHT_QUANTIZERS
from quantal.qat.training.diagnosis import SATURATED, _of_membranes, findings
from quantal.qat.training.warm_start import METHODS, warm_start
from support.commands import succeed
from support.layers import a_layer, replace
from support.torch_networks import random_network, small_config

FLOAT: dict[str, Any] = {"weights": "float", "states": "float"}


@pytest.fixture(autouse=True)
def _in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own reading of the step: hardly anything is trained, and compiling the engine would cost more."""
    monkeypatch.setattr(cpu, "available", lambda: False)


def stuck(how: str, **options: Any) -> SpikingNetwork:
    """A network that is silent, or nearly, or says one thing whatever it sees, or whose membranes are far too large."""
    layers = a_layer("hidden", 5, recurrent=True, **options), a_layer("out", 3, neuron="li", **options)
    network = random_network(*layers, channels=4, maximum=1, seed=1)
    with torch.no_grad():
        for layer in network.stack:
            for matrix in layer.matrices:
                matrix.mul_({"saturated": 100.0, "nearly silent": 1e-4}.get(how, 0.0))
            if layer.bias is not None:
                layer.bias.fill_({"constant": 0.4, "negative": -3.0, "nearly silent": 1e-4}.get(how, 0.0))
    return network


HOWS = ("nearly silent", "constant", "negative", "saturated")


@pytest.mark.parametrize(
    ("how", "method"), [*(("silent", method) for method in METHODS), *((how, "mse") for how in HOWS)]
)
def test_any_calibration_takes_a_network_that_is_stuck(how: str, method: str) -> None:
    source = stuck(how, **FLOAT)
    x = torch.randint(0, 2, (4, 5, 4), generator=torch.Generator().manual_seed(0)).float()
    every: list[dict[str, Any]] = [{"state_quantizer": name, "states": 4} for name in STATE_QUANTIZERS]
    if method == "mse" and how == "silent":
        every += [{"weight_quantizer": name, "weights": bits[0]} for name, (_, bits) in WEIGHT_QUANTIZERS.items()]
    for options in (*every, {"states": 16}, {"states": 2}):
        layers = tuple(replace(layer, **({"weights": 4, "states": 8} | options)) for layer in source.config.layers)
        network = SpikingNetwork(small_config(*layers), 4, 1)
        warm_start(network, source, x, method, final=True)
        lowered, samples = lower(network, "net"), x.numpy().astype(np.int64)
        for name, values in hard_trace(network, samples, exact_dtype(lowered)).items():
            assert np.array_equal(values, interpret.run(lowered.network, samples)[name]), (options, name)


@pytest.mark.parametrize("scale", ["row", "layer"])
@pytest.mark.parametrize("name", WEIGHT_QUANTIZERS)
def test_every_quantizer_takes_rows_of_zeros(name: str, scale: str) -> None:
    for bits in WEIGHT_QUANTIZERS[name][1]:
        network = random_network(
            a_layer("hidden", 5, weight_quantizer=name, weights=bits, scale=scale), a_layer("out", 3, neuron="li"),
            channels=4, maximum=1, seed=1,
        )  # fmt: skip
        layer = network.stack[0]
        for rows in (slice(0, 2), slice(0, 5)):
            with torch.no_grad():
                layer.weight[rows] = 0.0
            layer.begin()
            assert bool((layer.unit > 0).all())
            assert bool(layer.integers().codes.isfinite().all())
        network.restore(network.state_dict(), "checkpoint")
        lower(network, "net")


# ---- in words


def said(network: SpikingNetwork, x: np.ndarray, y: np.ndarray) -> list[str]:
    return findings(network, torch.from_numpy(x).double(), y)


def network_of(hidden: dict[str, Any], readout: dict[str, Any], loss: str = "last") -> SpikingNetwork:
    """A network of 4 inputs whose parameters are those of its start."""
    layers = a_layer("hidden", 5, **hidden), a_layer("out", 3, neuron="li", **readout)
    config = small_config(*layers)
    return SpikingNetwork(replace(config, training=replace(config.training, loss=loss)), 4, 1)


X = np.random.default_rng(0).integers(0, 2, (12, 8, 4))
Y = np.arange(12) % 3


def biased(layer: str, value: float, loss: str = "last", **hidden: Any) -> SpikingNetwork:
    """A network in which that layer has biases alone."""
    network = network_of(hidden, {"states": 12, "state_range": 64.0}, loss)
    for one in network.stack:
        if one.config.name == layer:
            with torch.no_grad():
                one.weight.zero_()
                one.bias.copy_(value * torch.ones(one.rows))
    return network


def test_a_layer_that_never_fires_is_named() -> None:
    for precision in ({}, {"state_quantizer": "aligned", "states": 3}, {"neuron": "step"}):
        (line, *_) = said(biased("hidden", 0.0, **precision), X, Y)
        assert line == "layer hidden never fires: try a larger gain, a lower threshold or a norm"


def test_a_layer_whose_levels_end_below_its_threshold_says_so() -> None:
    network = network_of({"state_quantizer": "dq", "states": 3, "gain": 9.0}, {})
    layer = network.stack[0]
    with torch.no_grad():
        layer.ranges[0] /= 8  # of levels: 4 of 3/64 of a threshold
    (line, *_) = said(network, X, Y)
    levels, threshold = layer.integers().params.grid.levels, layer.integers().params.threshold
    top = int(levels.detach().max())
    assert 0 < top < int(threshold)
    assert f"never fires (its highest level is {top}, its threshold {int(threshold)})" in line


@pytest.mark.parametrize("reset", ["subtract", "none"])
def test_a_layer_that_does_not_look_at_its_input_is_named(reset: str) -> None:
    (line, *_) = said(biased("hidden", 90.0, neuron="step"), X, Y)
    assert line.startswith("layer hidden fires at every step, whatever it sees")
    network = biased("hidden", 90.0, neuron="step")
    with torch.no_grad():
        network.stack[0].bias[1] = 0.0
    (line, *_) = said(network, X, Y)
    assert line.startswith("layer hidden sends the same spikes at every step, whatever it sees")
    assert not any(
        "whatever" in line for line in said(network, np.repeat(X[:1], 3, axis=0), Y[:3])
    )  # all samples alike


def test_membranes_at_their_limit_are_counted() -> None:
    network = biased("hidden", -900.0)
    line = said(network, X, Y)[1]
    assert line.startswith("100 % of hidden's membranes are at their limit: try")
    for share in (SATURATED, SATURATED - 1 / 100):  # of 10 samples of 10 steps, of one neuron
        codes = torch.zeros(10, 10, 1)
        codes.view(-1)[: round(share * 100)] = 127
        layer = network_of({}, {}).stack[0]
        found = _of_membranes(layer, {"hidden.u": codes})
        assert [line.partition("'")[0] for line in found] == (["90 % of hidden"] if share == SATURATED else [])
    few = network_of({"states": 3}, {}).stack[0]
    assert _of_membranes(few, {"hidden.u": torch.full((12, 8, 1), 3.0)}) == []


@pytest.mark.parametrize("loss", ["last", "steps"])
def test_a_network_that_says_one_class_is_told_which(loss: str) -> None:
    network = biased("out", 0.0, loss, gain=6.0)
    with torch.no_grad():
        network.stack[1].bias.copy_(torch.tensor([0.0, 0.0, 1.0]))
    y = Y if loss == "last" else np.where(X[:, :, 0] > 0, Y[:, None], -1)
    assert said(network, X, y)[-1] == "the network always says class 2, of the 3 that the samples have"
    one = np.full_like(y, 2)
    assert not any("always" in line for line in said(network, X, one))


def test_a_network_in_full_precision_is_looked_at_too() -> None:
    layers = a_layer("hidden", 5, bias=False, **FLOAT), a_layer("out", 3, neuron="li", bias=False, **FLOAT)
    network = SpikingNetwork(small_config(*layers), 4, 1)
    with torch.no_grad():
        network.stack[0].weight.zero_()
    assert [line.partition(":")[0] for line in said(network, X, Y)] == [
        "layer hidden never fires",
        "the network always says class 0, of the 3 that the samples have",
    ]


def test_of_a_network_that_does_what_it_should_nothing_is_said() -> None:
    network = network_of({}, {"states": 12, "state_range": 64.0, "bias": False})
    with torch.no_grad():
        for layer in network.stack:  # each neuron fires as its input does, and each class is how often one has fired
            layer.weight.copy_(2 * torch.eye(*layer.weight.shape))
            layer.begin()
    output = hard_trace(network, X, torch.float64)["output"][:, -1].argmax(axis=1)
    assert len(np.unique(output)) > 1
    assert said(network, X, output) == []


def test_training_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("zero.npz", x=np.zeros((30, 5, 6), np.uint8), y=np.arange(30) % 3)
    net = '[task]\nname="npz"\n[encoder]\nsteps=5\n[[layer]]\nname="a"\nsize=8\nbias=false\n'
    Path("net.toml").write_text(f'{net}[[layer]]\nname="o"\nsize=3\nneuron="li"\nbias=false\n[training]\nepochs=1\n')
    for precision in (["--weights", "float", "--states", "float", "--out", "full"], ["--from", "full", "--out", "run"]):
        *_, silent, always, memory, accuracy = succeed(
            "train", "--network", "net.toml", "--data", "zero.npz", *precision, "--epochs", "0"
        ).out.splitlines()
        assert silent.startswith("layer a never fires")
        assert always == "the network always says class 0, of the 3 that the samples have"
        assert memory.startswith("peak memory")
        assert accuracy == "test accuracy 33.33 %"

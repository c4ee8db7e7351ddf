"""Learned widths: they fit their budget, follow the gradients, and reach the integer network."""

from typing import Any

import pytest
import torch
from conftest import one_line, random_input, random_network, small_config
from rich.progress import Progress

from export import interpret
from export.errors import BadInput
from qat.allocation import allocate, weight_bytes
from qat.config import Config, Encoder, Layer, Task, Training
from qat.lower import exact_dtype, lower
from qat.network import SpikingNetwork, hard_trace
from qat.train import Run, load_data

LAYERS = (
    Layer("first", 12, weights="learned", recurrent=True),
    Layer("second", 9, weights="learned", gain=3.0),
    Layer("readout", 3, neuron="li", weights="learned"),
)
NARROWEST = 6 * 3 + 12 * 3 + 12 * 3 + 9 * 1  # rows of whole bytes at 2 bits: input, recurrent, second, readout


def network_of(budget: int = 1000, **options: Any) -> SpikingNetwork:
    config = Config(Task("digits"), Encoder(), LAYERS, Training(budget=budget, **options))
    return SpikingNetwork(config, channels=6, maximum=3)


def squares(network: SpikingNetwork, *sizes: float) -> dict[torch.Tensor, torch.Tensor]:
    """Mean squared gradients, one size for all weights of a layer."""
    pairs = zip(network.stack, sizes, strict=True)
    return {matrix: torch.full_like(matrix, size) for layer, size in pairs for matrix in layer.matrices}


def widths(network: SpikingNetwork) -> list[int]:
    return [layer.weight_bits for layer in network.stack]


@pytest.mark.parametrize("budget", range(NARROWEST, 8 * NARROWEST, 37))
def test_the_weights_fit_their_budget_and_use_it(budget: int) -> None:
    network = network_of()
    allocate(network, squares(network, 1, 1, 1), budget)
    assert weight_bytes(network) <= budget
    for layer in network.stack:  # no layer alone could be wider
        quantizer, width = layer.quantizer, layer.weight_bits
        for wider in (w for w in (4, 8) if w > width):
            quantizer.width.fill_(wider)
            assert weight_bytes(network) > budget
        quantizer.width.fill_(width)


@pytest.mark.parametrize("budget", [0, NARROWEST - 1])
def test_a_budget_below_two_bits_is_refused(budget: int) -> None:
    network = network_of()
    with pytest.raises(BadInput) as error:
        allocate(network, squares(network, 1, 1, 1), budget)
    one_line(error, str(NARROWEST))


@pytest.mark.parametrize("dear", [0, 1, 2])
def test_the_layer_whose_errors_cost_most_keeps_its_bits(dear: int) -> None:
    network = network_of()
    sizes = [1e-6, 1e-6, 1e-6]
    sizes[dear] = 1e6
    allocate(network, squares(network, *sizes), 3 * NARROWEST)
    assert widths(network)[dear] == 8
    assert min(widths(network)) < 8


@pytest.mark.parametrize("width", [2, 4, 8])
def test_every_width_is_one_network_in_torch_and_in_integers(width: int) -> None:
    config = {"weights": "learned", "recurrent": True}
    layers = (Layer("hidden", 5, gain=4.0, **config), Layer("readout", 3, neuron="li", weights=8))
    network = random_network(*layers, channels=4, maximum=3, seed=2, budget=10_000)
    network.stack[0].quantizer.width.fill_(width)
    lowered, x = lower(network, "network"), random_input(6, 30, 4, 3, 2)
    codes = lowered.layers[0].weights["fan_in"]
    assert abs(codes).max() <= 2 ** (width - 1) - 1
    assert lowered.layers[0].semantics["weights"] == f"{width} bits, lsq"
    expected = interpret.run(lowered, x)
    assert all((expected[k] == v).all() for k, v in hard_trace(network, x, exact_dtype(lowered)).items())


def test_a_run_settles_its_widths_by_its_gradients(tmp_path: Any) -> None:
    layers = (Layer("hidden", 24, weights="learned"), Layer("readout", 10, neuron="li", weights="learned"))
    config = Config(Task("digits"), Encoder(steps=4), layers, Training(epochs=3, budget=700))
    data = load_data(config, None)
    run = Run.create(tmp_path / "run", config, data)
    run.train(data, 3, Progress(disable=True))
    assert weight_bytes(run.network) <= 700
    assert Run.open(tmp_path / "run").network.stack[0].weight_bits == widths(run.network)[0]
    assert lower(run.network, "network").layers[0].semantics["weights"].startswith(f"{widths(run.network)[0]} bits")


@pytest.mark.parametrize(("weights", "budget"), [("learned", 0), (4, 1000)])
def test_a_budget_goes_with_learned_widths_and_they_with_it(weights: int | str, budget: int) -> None:
    with pytest.raises(BadInput) as error:
        small_config(Layer("readout", 3, neuron="li", weights=weights), budget=budget)
    one_line(error, "budget")

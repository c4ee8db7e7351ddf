"""Learned widths: they fit their budget, follow the gradients, and reach the integer network."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from rich.progress import Progress

from quantal.export.base.errors import BadInput
from quantal.export.base.toolchain import compile_host
from quantal.export.ir import interpret
from quantal.export.ir.network import Network
from quantal.qat.config.parts.layers import Conv, Pool
from quantal.qat.config.parts.network import Config, Direct, Task
from quantal.qat.config.parts.training import Bptt
from quantal.qat.config.parts.weights import DqPower, Lsq
from quantal.qat.lower import exact_dtype, lower
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.network.trace import hard_trace
from quantal.qat.quantizers.weights import Learned
from quantal.qat.training.bit_widths import allocate, weight_bytes
from quantal.qat.training.epochs import train_until
from quantal.qat.training.run import Run, load_data
from quantal.qat.training.start import new_run
from support.graphs import graph
from support.layers import a_layer
from support.messages import one_line
from support.programs import header_of
from support.torch_networks import random_input, random_network, small_config

LAYERS = (
    a_layer("first", 12, weights="learned", recurrent=True),
    a_layer("second", 9, weights="learned", gain=3.0),
    a_layer("readout", 3, neuron="li", weights="learned"),
)
NARROWEST = 6 * 3 + 12 * 3 + 12 * 3 + 9 * 1  # rows of whole bytes at 2 bits: input, recurrent, second, readout
KERNELS: dict[str, Any] = {"kernel": (2, 2), "stride": (1, 1), "padding": (0, 0)}

# beside the chain: convolutions in groups and by channels that fill no byte, delays, diagonals, added currents
GRAPHS = ("planes", "line", "delays", "residual", "neurons_diagonal", "neurons_line")


def network_of(budget: int = 1000, **options: Any) -> SpikingNetwork:
    config = Config(task=Task(name="digits"), encoder=Direct(), layers=LAYERS, training=Bptt(budget=budget, **options))
    return SpikingNetwork(config, channels=6, maximum=3)


def squares(network: SpikingNetwork, *sizes: float) -> dict[torch.Tensor, torch.Tensor]:
    """Mean squared gradients, one size for all weights of a layer."""
    pairs = zip(network.stack, sizes, strict=True)
    return {matrix: torch.full_like(matrix, size) for layer, size in pairs for matrix in layer.matrices}


def learning(name: str) -> SpikingNetwork:
    """A graph whose layers learn their bits, but for those with other quantizers or a norm."""
    config = graph(name)
    layers = tuple(
        replace(layer, weights=replace(layer.weights, bits="learned"))
        if not isinstance(layer, Pool) and isinstance(layer.weights, Lsq) and layer.norm == "none"
        else layer
        for layer in config.layers
    )
    return SpikingNetwork(replace(config, layers=layers, training=Bptt(budget=100_000)), 64, 16)


def stretched(network: SpikingNetwork) -> SpikingNetwork:
    """The network, its weights in both directions so large that all its codes reach their ends."""
    with torch.no_grad():
        for layer in network.stack:
            for matrix in layer.matrices:
                matrix[:, ::2], matrix[:, 1::2] = 1e3, -1e3
                matrix[::2] *= -1
    return network


def compiled_bytes(network: Network, folder: Path) -> int:
    """What the tables of weights, and of the levels that codes stand for, take in the compiled header."""
    x = random_input(2, 3, network.inputs, network.input_hi, 0)
    header = header_of(network, x)
    names = re.findall(rf"^static const \w+ ({network.name}_priv_\w+(?:fan_in\d*|recurrent|_weights))\[", header, re.M)
    (folder / f"{network.name}.h").write_text(header)
    sizes = " + ".join(f"sizeof {name}" for name in names)
    (folder / "main.c").write_text(
        f'#include <stdio.h>\n#define {network.name.upper()}_IMPLEMENTATION\n#include "{network.name}.h"\n'
        f'int main(void) {{ printf("%lu", (unsigned long)({sizes})); return 0; }}\n'
    )
    compile_host([folder / "main.c"], folder / "main", flags=["-I", str(folder)])
    return int(subprocess.run([folder / "main"], capture_output=True, check=True).stdout)


def widths(network: SpikingNetwork) -> list[int]:
    return [layer.weight_bits for layer in network.stack]


@pytest.mark.parametrize("budget", range(NARROWEST, 8 * NARROWEST, 37))
def test_the_weights_fit_their_budget_and_use_it(budget: int) -> None:
    network = network_of()
    allocate(network, squares(network, 1, 1, 1), budget)
    assert weight_bytes(network) <= budget  # and that this is what they take: see below
    for layer in network.stack:  # no layer alone could be wider
        quantizer, width = layer.quantizer, layer.weight_bits
        for wider in (w for w in (4, 8) if w > width):
            quantizer.width.fill_(wider)
            assert weight_bytes(network) > budget
        quantizer.width.fill_(width)


@pytest.mark.parametrize("width", [2, 4, 8])
@pytest.mark.parametrize("name", ["chain", *GRAPHS])
def test_what_weights_take_is_what_the_compiled_header_has(name: str, width: int, tmp_path: Path) -> None:
    network = stretched(network_of() if name == "chain" else learning(name))
    for layer in network.stack:
        if isinstance(layer.quantizer, Learned):
            layer.quantizer.width.fill_(width)
    assert weight_bytes(network) == compiled_bytes(lower(network, "net").network, tmp_path)


@pytest.mark.parametrize(
    "options",
    [{"weights": 1}, {"weight_quantizer": "dq-power"}, {"weight_quantizer": "dq", "weights": 1}, {"weights": 3}],
)
@pytest.mark.parametrize("channels", [1, 9])
def test_levels_that_codes_stand_for_are_counted_too(options: dict[str, Any], channels: int, tmp_path: Path) -> None:
    """At most: few levels are made by shifts and adds where an event is more than a spike, and signs by a sum."""
    hidden = a_layer("hidden", channels, recurrent=True, delays=(0, 1), **options)
    layers = (
        Conv(name="image", channels=channels, shape=(1, 4, 4), weights=hidden.weights, **KERNELS),
        hidden,
        a_layer("readout", 3, neuron="li", weights="learned"),
    )
    network = stretched(SpikingNetwork(small_config(*layers, budget=10_000), channels=16, maximum=1))
    taken = compiled_bytes(lower(network, "net").network, tmp_path)
    powers = isinstance(hidden.weights, DqPower)
    products, levels = 4 if powers or hidden.weights.bits == 1 else 0, 16 if powers else 2
    assert taken <= weight_bytes(network) <= taken + products * levels


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("budget", range(140, 900, 190))
def test_convolutions_fit_their_budget(groups: int, budget: int, tmp_path: Path) -> None:
    layers = (
        Conv(name="image", channels=10, shape=(2, 4, 4), groups=groups, weights=Lsq(bits="learned"), **KERNELS),
        a_layer("readout", 1, neuron="li", weights="learned"),
    )
    network = SpikingNetwork(small_config(*layers, budget=budget), channels=32, maximum=3)
    allocate(network, squares(network, 1, 1), budget)
    assert compiled_bytes(lower(stretched(network), "net").network, tmp_path) == weight_bytes(network) <= budget
    assert widths(network)[1] == 8  # of one neuron, a row is a byte, whatever its bits are


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
    layers = (a_layer("hidden", 5, gain=4.0, **config), a_layer("readout", 3, neuron="li", weights=8))
    network = random_network(*layers, channels=4, maximum=3, seed=2, budget=10_000)
    network.stack[0].quantizer.width.fill_(width)
    lowered, x = lower(network, "network"), random_input(6, 30, 4, 3, 2)
    codes = lowered.network.layers[0].weights["fan_in"]
    assert abs(codes).max() <= 2 ** (width - 1) - 1
    assert lowered.network.layers[0].semantics["weights"] == f"{width} bits, lsq"
    expected = interpret.run(lowered.network, x)
    assert all((expected[k] == v).all() for k, v in hard_trace(network, x, exact_dtype(lowered)).items())


def test_a_run_settles_its_widths_by_its_gradients(tmp_path: Any) -> None:
    layers = (a_layer("hidden", 24, weights="learned"), a_layer("readout", 10, neuron="li", weights="learned"))
    config = Config(
        task=Task(name="digits"), encoder=Direct(steps=4), layers=layers, training=Bptt(epochs=3, budget=700)
    )
    data = load_data(config, None)
    run = new_run(tmp_path / "run", config, data)
    train_until(run, data, 3, Progress(disable=True))
    assert weight_bytes(run.network) <= 700
    assert Run.open(tmp_path / "run").network.stack[0].weight_bits == widths(run.network)[0]
    said = lower(run.network, "network").network.layers[0].semantics["weights"]
    assert said.startswith(f"{widths(run.network)[0]} bits")


@pytest.mark.parametrize(("weights", "budget"), [("learned", 0), (4, 1000)])
def test_a_budget_goes_with_learned_widths_and_they_with_it(weights: int | str, budget: int) -> None:
    with pytest.raises(BadInput) as error:
        small_config(a_layer("readout", 3, neuron="li", weights=weights), budget=budget)
    one_line(error, "budget")

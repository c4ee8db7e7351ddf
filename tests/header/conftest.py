"""Builds whose headers are compiled, made once."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from quantal.export.build import Build
from quantal.export.ir import interpret
from quantal.export.ir.network import Network
from support.networks import input_for, lively, write
from support.programs import coded, random_program, table_lif, whole_word
from support.torch_networks import three_layers


@pytest.fixture(scope="session")
def headers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Build]:
    """Builds of that name, made once.

    Spikes in and counts out; 8-bit words and every op; the whole 32-bit word; states that are levels; packed weights.
    """

    @cache
    def build(name: str) -> Build:
        if name == "spikes":
            network, x = lively(lambda seed: three_layers(seed, neuron="count"), range(1, 50))
        elif name == "program":
            network, x = lively(random_program, (seed for seed in range(3, 400, 8) if decides(random_program(seed))))
        elif name == "word":
            network, x = whole_word()
        elif name == "levels":
            network, x = lively(lambda seed: table_lif(8, seed=seed), range(50), steps=30)
        else:
            network, x = lively(packed, (seed for seed in range(50) if decides(packed(seed))))
        return write(network, tmp_path_factory.mktemp(name) / "build", name, x)

    return build


def packed(seed: int) -> Network:
    """Weights of every packing, on integers and on spikes."""
    return coded((1, 2, 4, 8), -5, 3, seed)


def decides(network: Network) -> bool:
    """Whether the network has several layers, and classes that depend on its input."""
    output = interpret.run(network, input_for(network, 9, 5))["output"]
    return len(network.layers) > 1 and len(np.unique(interpret.classify(output))) > 1

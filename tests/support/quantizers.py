"""Values, tables and small networks on which quantizers are tried."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from quantal.qat.arithmetic.grids import TableGrid
from quantal.qat.arithmetic.torch_ops import TorchOps
from quantal.qat.engine import cpu
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.quantizers.states import StateQuantizer
from quantal.qat.quantizers.weights import WEIGHT_QUANTIZERS
from support.layers import a_layer, replace
from support.torch_networks import small_config

OPS = TorchOps()
WEIGHTS = [(name, bits[min(1, len(bits) - 1)]) for name, (_, bits) in WEIGHT_QUANTIZERS.items()] + [("lsq", 1)]


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(lo: float, hi: float, *shape: int, seed: int = 0) -> Tensor:
    return lo + (hi - lo) * torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def table(quantizer: StateQuantizer, reference: float, passes: str = "clip", ranges: Tensor | None = None) -> TableGrid:
    """Its grid, one threshold being `reference` accumulator units; ranges as they are at first."""
    first = torch.tensor(quantizer.first, dtype=torch.float64) if ranges is None else ranges
    levels, borders = quantizer.integers(first, reference)
    return TableGrid(int((borders <= 0).sum()), len(levels), passes, borders, levels)


def quantized(grid: TableGrid, x: Tensor) -> Tensor:
    level: Tensor = grid.decode(OPS, grid.encode(OPS, x))
    return level


def gradient(value: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value.sum(), of)


# ---- how weight quantizers begin


def tiny(
    *, inputs: int = 10, size: int = 5, readout: str = "li", forward: str = "hard", temperature: float = 10.0,
    **options: Any,
) -> SpikingNetwork:  # fmt: skip
    """A small network, both layers with these options; what only a hidden layer takes goes to it alone."""
    alone = {"norm", "recurrent", "neuron"}
    alone |= {"spikes", "adaptation", "adaptation_decay", "refractory"} if readout == "li" else set()
    alone |= {"synapse_decay"} if "synapse" not in options else set()
    last = {name: value for name, value in options.items() if name not in alone}
    layers = a_layer("hidden", size, **{"gain": 3.0} | options), a_layer("readout", 3, neuron=readout, **last)
    config = small_config(*layers)
    config = replace(config, training=replace(config.training, forward=forward, temperature=temperature))
    return SpikingNetwork(config, inputs, 1)


# ---- no knob without effect


def learn(network: SpikingNetwork, x: Tensor, steps: int, rate: float = 0.02) -> SpikingNetwork:
    """A few steps of training on labels without a meaning."""
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=rate)
    labels = torch.arange(len(x)) % 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "available", lambda: False)
        network.anneal(0)
        network.train()
        for _ in range(steps):
            optimizer.zero_grad()
            functional.cross_entropy(network.logits(x), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            network.project()
        network.eval()
    return network

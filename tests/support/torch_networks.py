"""Small networks in torch with every parameter moved from its start, and inputs for them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from quantal.export.base.fixed import Ints
from quantal.qat.config import rules
from quantal.qat.config.parts.layers import Layer
from quantal.qat.config.parts.network import Config, Direct, Task
from quantal.qat.config.parts.training import Bptt
from quantal.qat.network.network import SpikingNetwork
from support.layers import a_layer


def three_layers(
    seed: int,
    *,
    neuron: str = "li",
    pool: str = "last",
    channels: int = 6,
    maximum: int = 1,
    hidden: Mapping[str, Any] = MappingProxyType({}),
    **options: object,
) -> SpikingNetwork:
    """A feed-forward and a recurrent layer and a readout, perturbed as training would; `options` for all three."""
    rng = np.random.default_rng(seed)
    drawn = {
        "scale": rng.choice(["row", "layer"]).item(),
        "decay_per": rng.choice(["layer", "neuron"]).item(),
        "threshold_per": rng.choice(["layer", "neuron"]).item(),
        "bias": bool(rng.integers(2)),
    }
    chosen = drawn | {"gain": 4.0} | options
    return random_network(
        a_layer("first", 7, **(chosen | dict(hidden))),
        a_layer("second", 5, recurrent=True, **(chosen | dict(hidden))),
        a_layer("out", 4, neuron=neuron, pool=pool, **chosen),
        channels=channels,
        maximum=maximum,
        seed=seed,
    )


def small_config(*layers: Layer, seed: int = 0, budget: int = 0) -> Config:
    """A valid configuration of these layers."""
    config = Config(task=Task(name="digits"), encoder=Direct(), layers=layers, training=Bptt(seed=seed, budget=budget))
    rules.refuse(config, "test")
    return config


def random_network(*layers: Layer, channels: int, maximum: int, seed: int, budget: int = 0) -> SpikingNetwork:
    """A network of these layers with every parameter moved away from its start, as training would."""
    network = SpikingNetwork(small_config(*layers, seed=seed, budget=budget), channels, maximum)
    rng = torch.Generator().manual_seed(seed + 1)

    def uniform(like: torch.Tensor, lo: float, hi: float) -> torch.Tensor:
        return torch.rand(like.shape, generator=rng) * (hi - lo) + lo

    with torch.no_grad():
        for layer in network.stack:
            spread = layer.weight.abs().max()
            layer.weight += uniform(layer.weight, -0.5, 0.5) * spread
            for decay in layer.decays.values():
                decay.copy_(uniform(decay, 0, 1))
            if layer.unit_gain.requires_grad:  # it stays 1 in full precision
                layer.unit_gain *= uniform(layer.unit_gain, 0.5, 2)
            if layer.recurrent is not None:
                layer.recurrent += uniform(layer.recurrent, -0.5, 0.5) * layer.recurrent.abs().max()
            if layer.threshold is not None:
                layer.threshold *= uniform(layer.threshold, 0.2, 2)
            if layer.adaptation is not None:
                layer.adaptation *= uniform(layer.adaptation, 0, 2)
            if layer.bias is not None:
                layer.bias += uniform(layer.bias, -0.3, 0.3) * layer.config.neuron.threshold
            if layer.ranges is not None:
                layer.ranges += uniform(layer.ranges, -0.5, 0.5) * layer.ranges.abs()
            if layer.norm is not None:  # a negative gain negates a row, and its sign ends in the codes
                layer.norm.gain *= uniform(layer.norm.gain, -2, 2)
                layer.norm.mean += uniform(layer.norm.mean, -0.5, 0.5)
                layer.norm.variance *= uniform(layer.norm.variance, 0.1, 2)
            if layer.psp is not None:  # a negative gain negates a column
                layer.psp.gain *= uniform(layer.psp.gain, -2, 2)
                layer.psp.moment *= uniform(layer.psp.moment, 0.1, 2)
            for name, parameter in layer.quantizer.named_parameters():
                if name == "reach_gain":
                    parameter *= uniform(parameter, 0.5, 2)
    network.project()
    return network


def random_input(samples: int, steps: int, channels: int, maximum: int, seed: int) -> Ints:
    """Random integers (samples, steps, channels); the first two samples are all 0 and all `maximum`."""
    x = np.random.default_rng(seed).integers(0, maximum, (samples, steps, channels), np.int64, endpoint=True)
    x[0], x[1] = 0, maximum
    return x

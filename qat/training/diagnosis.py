"""What is wrong with a trained network, in words: layers that say nothing or always the same, membranes at their limit.

Facts of its hard forward on some samples, counted as integers; of a healthy network nothing is said.
"""

import numpy as np
import torch
from torch import Tensor

from quantal.qat.arithmetic.grids import TableGrid
from quantal.qat.network.layer import SpikingLayer
from quantal.qat.network.network import SpikingNetwork

SATURATED = 0.9
"""The share of a layer's membranes, over samples and steps, from which on being at their limit is worth a word."""

LEAST_BITS = 4
"""Of fewer bits the two ends are a good part of all levels."""


@torch.no_grad()
def findings(network: SpikingNetwork, x: Tensor, y: np.ndarray) -> list[str]:
    """A line for each thing that is wrong on x (samples, steps, inputs), in a float that is exact, with labels y."""
    record: dict[str, Tensor] = {}
    output = network(x, record)
    found, alike = [], bool((x == x[:1]).all())
    for layer in network.stack:
        found += _of_spikes(layer, record, alike) + _of_membranes(layer, record)
    return found + _of_answers(network, output, y)


def _of_spikes(layer: SpikingLayer, record: dict[str, Tensor], alike: bool) -> list[str]:
    name = layer.config.name
    spikes = record.get(f"{name}.spike")
    if not layer.neuron.fires or layer.neuron.readout or spikes is None:
        return []
    if not spikes.any():
        return [f"layer {name} never fires{_why_silent(layer)}: try a larger gain, a lower threshold or a norm"]
    if not alike and bool((spikes == spikes.flatten(0, 1)[0]).all()):
        fires = "fires at every step" if bool(spikes.all()) else "sends the same spikes at every step"
        return [f"layer {name} {fires}, whatever it sees: try a smaller gain, a higher threshold or a norm"]
    return []


def _why_silent(layer: SpikingLayer) -> str:
    """Why it cannot fire at all, where its levels end at or below its threshold."""
    params = layer.integers().params
    if not isinstance(params.grid, TableGrid) or params.grid.after_reset or params.threshold is None:
        return ""
    top, least = int(params.grid.levels.max()), int(params.threshold.min())
    return f" (its highest level is {top}, its threshold {least})" if top <= least else ""


def _of_membranes(layer: SpikingLayer, record: dict[str, Tensor]) -> list[str]:
    name, states = layer.config.name, layer.config.states
    codes = record.get(f"{name}.u")
    if codes is None or not states.quantized or states.width("membrane") < LEAST_BITS:
        return []
    grid = layer.integers().params.grid
    at_limit = int(((codes == grid.lo) | (codes == grid.hi)).sum())
    if at_limit < SATURATED * codes.numel():
        return []
    share = 100 * at_limit // codes.numel()
    return [f"{share} % of {name}'s membranes are at their limit: try a larger states.range, a smaller gain or a norm"]


def _of_answers(network: SpikingNetwork, output: Tensor, y: np.ndarray) -> list[str]:
    loss = network.config.training.loss
    if loss == "regression":
        same = bool((output[:, -1] == output[0, -1]).all()) and len(y) > 1
        return ["the network always says the same value"] if same else []
    counts = torch.from_numpy(y >= 0)
    said = (output if loss == "steps" else output[:, -1]).argmax(dim=-1).cpu()[counts]
    wanted = np.unique(y[y >= 0])
    if len(wanted) < 2 or bool((said != said[0]).any()):
        return []
    return [f"the network always says class {int(said[0])}, of the {len(wanted)} that the samples have"]

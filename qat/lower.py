"""From the trained network to the integer network: the only place where training meets export.

The neuron's own `step` is recorded by the builder; nothing is derived a second time.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from export.errors import BadInput
from export.intervals import find_invariants, prove
from export.ir import Builder, Layer, Network, StateVar
from qat import encoding, neurons
from qat.config import Config
from qat.layers import SpikingLayer
from qat.network import SpikingNetwork
from qat.neurons import NEURONS, Params


def lower(network: SpikingNetwork, name: str) -> Network:
    """The integer network of `network` as it is now, its intervals proven, under `name`.

    Raises BadInput where a layer is in full precision, or where the proof fails, naming layer and neuron.
    """
    config = network.config
    layers = []
    source = "input"
    for layer in network.stack:
        layers.append(_lower_layer(layer, source))
        source = layer.config.name
    lowered = find_invariants(
        Network(
            name=name,
            inputs=network.channels,
            input_lo=0,
            input_hi=network.maximum,
            encoding=_encoding(config),
            layers=tuple(layers),
        )
    )
    prove(lowered)
    return lowered


def _encoding(config: Config) -> dict[str, str | int]:
    encoder = config.encoder
    return {"kind": encoder.kind, "steps": encoder.steps, "seed": encoder.seed, "delta": encoder.delta}


def _lower_layer(layer: SpikingLayer, source: str) -> Layer:
    config = layer.config
    if config.weights == "float" or config.states == "float":
        what = "weights" if config.weights == "float" else "states"
        raise BadInput(f"layer {config.name}: {what}: full precision is for comparison and cannot be exported")
    with torch.no_grad():
        integers = layer.integers()
    ops = Builder()
    weights = {"fan_in": _int8(integers.codes)}
    fan_in = ops.matvec("fan_in", ops.input(source))
    state = {name: ops.state(name) for name in layer.initial_states()}
    recurrent = None
    if integers.recurrent is not None:
        weights["recurrent"] = _int8(integers.recurrent)
        recurrent = ops.matvec("recurrent", state["spike"])
    fan_in_shift, recurrent_shift, state_shift = layer.shifts.tolist()
    bias = None if integers.bias is None else ops.table(_ints(integers.bias))
    current = neurons.current(ops, fan_in, fan_in_shift, recurrent, recurrent_shift, bias)
    p = integers.params
    params = Params(
        threshold=None if p.threshold is None else ops.table(_ints(p.threshold)),
        decay=ops.table(_ints(p.decay)),
        decay_bits=p.decay_bits, state_shift=p.state_shift, lo=int(p.lo), hi=int(p.hi),
        reset=p.reset, timing=p.timing, pool=p.pool,
    )  # fmt: skip
    output, after = layer.neuron.step(ops, current, state, params)
    if recurrent is not None:
        after["spike"] = output
    ranges = {"spike": (0, 1), "count": (0, neurons.COUNT_MAX)}
    states = []
    for name, init in layer.initial_states().items():
        lo, hi = ranges.get(name, (int(p.lo), int(p.hi)))
        fraction = 0 if name in ranges else -state_shift
        states.append(StateVar(name, init, lo, hi, after[name], fraction))
    return Layer(
        name=config.name,
        size=config.size,
        semantics=_semantics(layer),
        ops=tuple(ops.ops),
        states=tuple(states),
        weights=weights,
        output=output,
        output_name=layer.neuron.output_name,
    )


def _semantics(layer: SpikingLayer) -> dict[str, str]:
    config = layer.config
    neuron = NEURONS[config.neuron]
    said = {"neuron": config.neuron, "weights": f"{config.weights}", "states": f"{config.states}"}
    if neuron.fires:
        said |= {"fires": "level > threshold, strictly", "reset": config.reset, "reset_timing": config.timing}
    if config.neuron == "li":
        said |= {"pool": config.pool}
    return said


def _ints(values: Tensor) -> Sequence[int]:
    whole: list[int] = values.detach().cpu().numpy().astype(np.int64).tolist()
    return whole


def _int8(codes: Tensor) -> np.ndarray:
    return codes.detach().cpu().numpy().astype(np.int8)


def exact_dtype(network: Network) -> torch.dtype:
    """The smallest torch float that holds every value of the network exactly: float32 below 2^24, else float64."""
    largest = max(max(-v.hull[0], v.hull[1]) for layer in prove(network) for v in layer)
    return torch.float32 if largest < 2**24 else torch.float64


def input_format(config: Config, channels: int, maximum: int) -> tuple[int, int]:
    """(channels, maximum) of what the encoder makes of `channels` inputs of at most `maximum`."""
    kind = config.encoder.kind
    return encoding.encoded_channels(kind, channels), encoding.encoded_maximum(kind, maximum)

"""From the trained network to the integer network: the only place where training meets export.

The neuron's own `step` is recorded by the builder; nothing is derived a second time.
"""

from dataclasses import asdict, replace

import numpy as np
import torch
from torch import Tensor

from export import names
from export.errors import BadInput
from export.intervals import find_invariants, prove
from export.ir import Add, Builder, Layer, Network, Shr, StateVar
from qat import neurons
from qat.layers import Integers, SpikingLayer
from qat.network import Pool, SpikingNetwork
from qat.neurons import NEURONS


def lower(network: SpikingNetwork, name: str) -> Network:
    """The integer network of `network` as it is now, its intervals proven, under `name`.

    Raises BadInput where a layer is in full precision, or where the proof fails, naming layer and neuron.
    """
    layers = _relays(network, "input", network.inputs)
    wanted = {layer.add for layer in network.config.layers}
    for layer in network.nodes:
        if isinstance(layer, Pool):
            layers.append(_lower_pool(layer, network))
        else:
            layers += _lower_layer(layer, network, layer.config.name in wanted)
        layers += _relays(network, layers[-1].name, layers[-1].size)
    if network.config.training.loss == "regression":
        layers[-1] = replace(layers[-1], semantics={**layers[-1].semantics, **_real_values(network)})
    lowered = find_invariants(
        Network(
            name=name,
            inputs=network.inputs,
            input_lo=0,
            input_hi=network.input_maximum,
            encoding=asdict(network.config.encoder) | {"channels": network.channels, "maximum": network.maximum},
            layers=tuple(layers),
        )
    )
    prove(lowered)
    return lowered


def _relays(network: SpikingNetwork, source: str, size: int) -> list[Layer]:
    """What the outputs of a layer are some steps late, each from the one before, in a ring of the steps between."""
    relays, before = [], 0
    for delay in network.delays(source):
        ops = Builder()
        value, late = ops.input(names.relay(source, before)), ops.state("line")
        line = StateVar("line", 0, 0, 0, value, delay=delay - before)
        said = {"neuron": "none", "delay": f"{source} {delay} steps late"}
        relays.append(Layer(names.relay(source, delay), size, said, tuple(ops.ops), (line,), {}, late, "value"))
        before = delay
    return relays


def _lower_pool(pool: Pool, network: SpikingNetwork) -> Layer:
    ops = Builder()
    ((source, _),) = network.connections(pool.config)
    total = ops.sumpool(ops.input(source), pool.window)
    said = {"neuron": "none", "pool": f"sums over {_across(pool.config.kernel)}, every {_across(pool.config.stride)}"}
    return Layer(pool.config.name, pool.config.size, said, tuple(ops.ops), (), {}, total, "sum")


def _across(pair: tuple[int, ...]) -> str:
    return " by ".join(map(str, pair))


def _lower_layer(layer: SpikingLayer, network: SpikingNetwork, current_wanted: bool) -> list[Layer]:
    """The layer; where others add its current, that first, as a layer of its own."""
    config = layer.config
    if config.weights == "float" or config.states == "float":
        what = "weights" if config.weights == "float" else "states"
        raise BadInput(f"layer {config.name}: {what}: full precision is for comparison and cannot be exported")
    ops = Builder()
    levels = layer.quantizer.levels
    if levels == tuple(range(-len(levels) // 2 + 1, len(levels) // 2 + 1)):
        levels = ()  # all integers between two ends are their own codes

    def codes(weights: Tensor) -> np.ndarray:
        values = weights.detach().cpu().numpy() / (1 << layer.quantizer.coarse)
        return (np.searchsorted(levels, values) if levels else values).astype(np.int8)

    def tabled(ops: Builder) -> Integers:
        with torch.no_grad():
            return layer.integers().mapped(codes, lambda name, table: ops.table(_ints(table), name), _ints)

    integers = tabled(ops)
    coarse = layer.quantizer.coarse
    fan_in_shift, recurrent_shift, _ = (shift + coarse for shift in layer.shifts.tolist())
    total, weights = _fan_in(ops, layer, network, integers.codes, levels)
    made = []
    if current_wanted or layer.added is not None:
        total = ops.shl(total, fan_in_shift)
        fan_in_shift = 0
        if layer.added is not None:
            added = ops.input(names.current(layer.added.config.name))
            total = ops.add(total, ops.shl(added, int(layer.added_shift)))
    if current_wanted:
        total = total if integers.bias is None else ops.add(total, integers.bias)
        name = names.current(config.name)
        said = {"neuron": "none", "current": f"of {config.name}"} | _semantics_of_weights(layer)
        made.append(Layer(name, config.size, said, tuple(ops.ops), (), weights, total, "current"))
        ops, weights = Builder(), {}
        total, integers = ops.input(name), tabled(ops)
        integers = replace(integers, bias=None)
    ranges = layer.states(integers.params)
    state = {name: ops.state(name) for name in ranges}
    recurrent = None
    if integers.recurrent is not None and config.recurrence == "diagonal":
        own = np.array(levels, np.int64)[integers.recurrent] if levels else integers.recurrent.astype(np.int64)
        recurrent = ops.mul(ops.table(own.reshape(-1).tolist(), "recurrent"), state["spike"])
    elif integers.recurrent is not None:
        weights["recurrent"] = integers.recurrent
        recurrent = ops.matvec("recurrent", state["spike"], levels)
    current = neurons.current(ops, total, fan_in_shift, recurrent, recurrent_shift, integers.bias)
    output, after = layer.neuron.step(ops, current, state, integers.params)
    if recurrent is not None:
        after["spike"] = output
    states = [StateVar(k, int(s.init), int(s.lo), int(s.hi), after[k], -s.shift) for k, s in ranges.items()]
    made.append(
        Layer(
            name=config.name,
            size=config.size,
            semantics=_semantics(layer),
            ops=tuple(ops.ops),
            states=tuple(states),
            weights=weights,
            output=output,
            output_name=layer.neuron.output_name,
        )
    )
    return made


def _fan_in(
    ops: Builder, layer: SpikingLayer, network: SpikingNetwork, codes: np.ndarray, levels: tuple[int, ...]
) -> tuple[int, dict[str, np.ndarray]]:
    """(the sum of its products, the weights of each): one for each thing that it sees, of its share of the columns."""
    sizes = {node.config.name: node.config.size for node in network.nodes} | {"input": network.inputs}
    total, weights, first = None, {}, 0
    for number, (source, delay) in enumerate(network.connections(layer.config)):
        seen, name = ops.input(names.relay(source, delay)), f"fan_in{number or ''}"
        if layer.window is not None:
            weights[name] = codes
            product = ops.conv(name, seen, layer.window, layer.config.groups, levels)
        else:
            weights[name] = codes[:, first : first + sizes[source]]
            product = ops.matvec(name, seen, levels)
            first += sizes[source]
        total = product if total is None else ops.add(total, product)
    assert total is not None  # a layer sees something
    return total, weights


def _semantics_of_weights(layer: SpikingLayer) -> dict[str, str]:
    config = layer.config
    said = {"weights": f"{layer.weight_bits} bits, {config.weight_quantizer}"}
    if layer.window is not None:
        said |= {"convolution": f"{config.channels} channels, {_across(config.kernel)}, every {_across(config.stride)}"}
    if config.add:
        said |= {"adds": f"the current of {config.add}"}
    return said


def _semantics(layer: SpikingLayer) -> dict[str, str]:
    config = layer.config
    neuron = NEURONS[config.neuron]
    said = {
        "neuron": config.neuron,
        **_semantics_of_weights(layer),
        "states": f"{config.states} bits, {config.state_quantizer}",
    }
    if config.recurrence != "full":
        said |= {"recurrence": config.recurrence}
    if neuron.stateless:
        said |= {"states": "none", "fires": "current > threshold, strictly"}
    elif neuron.fires:
        timing = "immediate, before states are quantized" if config.after_reset else config.timing
        said |= {"fires": "level > threshold, strictly", "reset": config.reset, "reset_timing": timing}
    if config.synapse != "none":
        said |= {"synapse": config.synapse}
    if config.adaptation:
        said |= {"threshold": "adaptive"}
    if config.refractory:
        said |= {"refractory": f"{config.refractory} steps"}
    if config.decay == 1:
        said |= {"leak": "none"}
    if config.neuron == "li":
        said |= {"pool": config.pool}
    return said


def _real_values(network: SpikingNetwork) -> dict[str, str]:
    """How each output of a regression is read: its real value is the offset plus the unit times the output."""
    pairs = zip(*(part.tolist() for part in network.real_values()), strict=True)
    said = {f"real_value_{k}": f"offset {offset!r}, unit {unit!r}" for k, (offset, unit) in enumerate(pairs)}
    return {key: words.replace("e+", "e") for key, words in said.items()}


def _ints(values: Tensor) -> list[int]:
    # The proof refuses what 32 bits cannot hold; here it only has to stay a number.
    whole: list[int] = values.detach().double().clamp(-(2.0**40), 2.0**40).cpu().numpy().astype(np.int64).tolist()
    return whole


def exact_dtype(network: Network) -> torch.dtype:
    """The smallest torch float that holds every value of the network exactly: float32 below 2^24, else float64."""
    largest = 0
    for layer, intervals in zip(network.layers, prove(network), strict=True):
        for op, interval in zip(layer.ops, intervals, strict=True):
            lo, hi = interval.hull
            largest = max(largest, -lo, hi)
            leak = layer.leak(op)
            if isinstance(op, Add) and leak is not None:  # torch multiplies: SHR(u·m, k) has a fractional bits
                u_lo, u_hi = intervals[op.a].hull
                largest = max(largest, -u_lo << leak, (u_hi << leak) + (1 << leak >> 1))
            if isinstance(op, Shr):  # rounding adds half a step before it shifts
                largest = max(largest, intervals[op.a].hull[1] + (1 << op.shift >> 1))
    return torch.float32 if largest < 2**24 else torch.float64

"""From the trained network to the integer network: the only place where training meets export.

The neuron's own `step` is recorded by the builder; nothing is derived a second time. What is recorded is what torch
computes, value by value; it is folded afterwards.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from quantal.export.base import names
from quantal.export.base.errors import BadInput
from quantal.export.ir.builder import Builder
from quantal.export.ir.fold import folded
from quantal.export.ir.network import Layer, Network, StateVar
from quantal.export.ir.ops import Shr
from quantal.export.proof.intervals import Interval, Proven, claims_of, evaluate, find_invariants, prove, rounded
from quantal.qat.arithmetic.exact import check_rounding
from quantal.qat.arithmetic.neurons import NEURONS
from quantal.qat.arithmetic.wiring import Wires, fan_in, layer_step
from quantal.qat.config.parts.layers import Conv
from quantal.qat.config.parts.network import Encoder
from quantal.qat.network.integers import Integers
from quantal.qat.network.layer import SpikingLayer
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.network.pool import Pool

FLOAT32_BITS, FLOAT64_BITS = 24, 53
"""Below 2^24 and 2^53 these floats hold every integer."""


@dataclass(frozen=True)
class Lowered(Proven):
    """A trained network as integers, proven. largest: the most that torch computes on the way is, whatever comes in."""

    largest: int


def lower(network: SpikingNetwork, name: str) -> Lowered:
    """The integer network of `network` as it is now, its intervals proven, under `name`.

    Raises BadInput where a layer is in full precision, or where the proof fails, naming layer and neuron.
    """
    recorded = record(network, name)
    proven = prove(find_invariants(replace(recorded, layers=tuple(map(folded, recorded.layers)))))
    return Lowered(proven.network, proven.intervals, _largest(recorded, proven))


def exact_dtype(lowered: Lowered) -> torch.dtype:
    """The smaller torch float that holds every value exactly which torch computes of the network."""
    return torch.float32 if lowered.largest < 1 << FLOAT32_BITS else torch.float64


def _largest(recorded: Network, lowered: Proven) -> int:
    """The largest magnitude of a recorded value, of states and outputs as they are proven of the lowered network.

    Sums are counted in every order, and right shifts with the half that they round by. Borders and the ends of clamps
    are compared with such values alone: one beyond them all stays beyond them when it is rounded.
    """
    inputs, largest = {"input": Interval.of(recorded.input_lo, recorded.input_hi)}, 0
    for layer, (folded_layer, proven) in zip(recorded.layers, lowered.layers, strict=True):
        values = evaluate(layer, inputs, claims_of(folded_layer), FLOAT64_BITS + 1)
        sums = [rounded(op, values) for op in layer.ops if isinstance(op, Shr)]
        largest = max(largest, *(abs(end) for interval in (*values, *sums) for end in interval.hull))
        inputs[layer.name] = proven[folded_layer.output]
    return largest


def record(network: SpikingNetwork, name: str) -> Network:
    """What torch computes of the network as it is now, op by op. States are claimed to fill their formats.

    Raises BadInput where a layer is in full precision.
    """
    check_rounding()
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
    return Network(
        name=name,
        inputs=network.inputs,
        input_lo=0,
        input_hi=network.input_maximum,
        encoding=_encoding(network.config.encoder) | {"channels": network.channels, "maximum": network.maximum},
        layers=tuple(layers),
    )


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
    if not config.weights.quantized or not config.states.quantized:
        what = "weights" if not config.weights.quantized else "states"
        raise BadInput(f"layer {config.name}: {what}: full precision is for comparison and cannot be exported")
    ops = Builder()
    codes, wires = _wires(ops, layer)
    product, weights = _products(ops, layer, network, codes.codes)
    made = []
    if current_wanted or layer.added is not None:
        product, wires = fan_in(ops, wires, product, _added(ops, layer), current_wanted)
    if current_wanted:
        name = names.current(config.name)
        said = {"neuron": "none", "current": f"of {config.name}"} | _semantics_of_weights(layer)
        made.append(Layer(name, config.size, said, tuple(ops.ops), (), weights, product, "current", ops.labels))
        ops, weights = Builder(), {}
        product = ops.input(name)
        wires = replace(_wires(ops, layer)[1], shifts=wires.shifts, bias=None)
    ranges = layer.states(wires.params)
    state = {name: ops.state(name) for name in ranges}
    wires, fed_back = _with_recurrence(ops, layer, wires, codes.recurrent)
    output, after = layer_step(ops, wires, product, state)
    made.append(
        Layer(
            name=config.name,
            size=config.size,
            semantics=_semantics(layer),
            ops=tuple(ops.ops),
            states=tuple(StateVar(k, int(s.init), int(s.lo), int(s.hi), after[k], -s.shift) for k, s in ranges.items()),
            weights=weights | fed_back,
            output=output,
            output_name=layer.neuron.output_name,
            labels=ops.labels,
        )
    )
    return made


def _wires(ops: Builder, layer: SpikingLayer) -> tuple[Integers, Wires[int]]:
    """(the codes of its weights, its wiring without recurrence), every table recorded."""
    coarse, levels, shifts = layer.quantizer.coarse, layer.quantizer.table, layer.wire_shifts

    def codes(weights: Tensor) -> np.ndarray:
        values = weights.detach().cpu().numpy() / (1 << coarse)
        return (np.searchsorted(levels, values) if levels else values).astype(np.int8)

    with torch.no_grad():
        whole = layer.integers().mapped(codes, lambda name, table: ops.table(_ints(table), name), _ints)
    shifts = replace(shifts, fan_in=shifts.fan_in + coarse, recurrent=shifts.recurrent + coarse)
    return whole, Wires(layer.neuron, whole.params, shifts, whole.bias)


def _added(ops: Builder, layer: SpikingLayer) -> Callable[[], int] | None:
    """Records the current of the layer that it adds, if any."""
    if layer.added is None:
        return None
    name = names.current(layer.added.config.name)
    return lambda: ops.input(name)


def _with_recurrence(
    ops: Builder, layer: SpikingLayer, wires: Wires[int], codes: np.ndarray | None
) -> tuple[Wires[int], dict[str, np.ndarray]]:
    """(the wires with what brings its own spikes back, its weights by name)."""
    levels = layer.quantizer.table
    if codes is None:
        return wires, {}
    if layer.config.recurrent == "diagonal":  # constants of its neurons, no matrix
        own = np.array(levels, np.int64)[codes] if levels else codes.astype(np.int64)
        return replace(wires, diagonal=ops.table(own.reshape(-1).tolist(), "recurrent")), {}
    return replace(wires, matrix=lambda spikes: ops.matvec("recurrent", spikes, levels)), {"recurrent": codes}


def _products(
    ops: Builder, layer: SpikingLayer, network: SpikingNetwork, codes: np.ndarray
) -> tuple[int, dict[str, np.ndarray]]:
    """(the sum of its products, the weights of each): one for each thing that it sees, of its share of the columns."""
    levels = layer.quantizer.table
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


def _encoding(encoder: Encoder) -> dict[str, str | int]:
    """All that an encoder may be given, whatever its kind."""
    return {"kind": encoder.kind, "steps": encoder.steps, "seed": encoder.seed, "delta": encoder.delta}


def _semantics_of_weights(layer: SpikingLayer) -> dict[str, str]:
    config = layer.config
    said = {"weights": f"{layer.weight_bits} bits, {config.weights.quantizer}"}
    if isinstance(config, Conv):
        said |= {"convolution": f"{config.channels} channels, {_across(config.kernel)}, every {_across(config.stride)}"}
    if config.add:
        said |= {"adds": f"the current of {config.add}"}
    return said


def _semantics(layer: SpikingLayer) -> dict[str, str]:
    config = layer.config
    neuron = NEURONS[config.neuron.kind]
    said = {
        "neuron": config.neuron.kind,
        **_semantics_of_weights(layer),
        "states": f"{config.states.membrane} bits, {config.states.quantizer}",
    }
    if config.recurrent == "diagonal":
        said |= {"recurrence": "diagonal"}
    if neuron.stateless:
        said |= {"states": "none", "fires": "current > threshold, strictly"}
    elif neuron.fires:
        timing = "immediate, before states are quantized" if config.after_reset else config.neuron.timing
        said |= {"fires": "level > threshold, strictly", "reset": config.neuron.reset, "reset_timing": timing}
    if config.neuron.synapse is not None:
        said |= {"synapse": config.neuron.synapse.kind}
    if config.neuron.adaptation is not None:
        said |= {"threshold": "adaptive"}
    if config.neuron.refractory:
        said |= {"refractory": f"{config.neuron.refractory} steps"}
    if "decay" not in config.neuron.decays and not neuron.stateless:
        said |= {"leak": "none"}
    if config.neuron.kind == "li":
        said |= {"pool": config.neuron.pool}
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

"""Torch against the interpreter, and the interpreter against the equations in plain integers."""

from itertools import product
from typing import Any

import numpy as np
import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor

from quantal.export.base.fixed import Ints
from quantal.export.ir import interpret
from quantal.export.ir.network import Network
from quantal.qat.arithmetic.grids import TableGrid
from quantal.qat.arithmetic.neurons import NEURONS
from quantal.qat.config.parts.layers import Layer
from quantal.qat.config.parts.states import Shared, Uniform
from quantal.qat.lower import exact_dtype, lower
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.network.trace import hard_trace
from quantal.qat.quantizers.normalization import NORMS
from quantal.qat.quantizers.states import STATE_QUANTIZERS
from quantal.qat.quantizers.weights import WEIGHT_QUANTIZERS
from support.layers import a_layer
from support.neurons import neuron_options

STEPS = 32
TABLED = [name for name, make in STATE_QUANTIZERS.items() if make is not None]
INTEGER_WEIGHTS = [(name, bits) for name, (_, widths) in WEIGHT_QUANTIZERS.items() for bits in widths]
INTEGER_STATES = [
    *product(["uniform"], range(2, 17)), *product(["shared"], (2, 3, 4, 8, 16)), *product(TABLED, range(1, 9))
]  # fmt: skip


def assert_equal(network: SpikingNetwork, x: Ints) -> Network:
    """Torch and the interpreter leave the same records, in the same order, with the same values."""
    lowered = lower(network, "network")
    expected = interpret.run(lowered.network, x)
    got = hard_trace(network, x, exact_dtype(lowered))
    assert list(got) == list(expected)
    for name, values in expected.items():
        assert np.array_equal(got[name], values), name
    return lowered.network


def hidden(**options: Any) -> Layer:
    return a_layer("hidden", 5, **{"gain": 2.0} | options)


# ---- everything at random


@st.composite
def layers(draw: st.DrawFn, name: str, neurons: list[str], recurrent: st.SearchStrategy[bool]) -> Layer:
    """Any layer that the configuration allows."""
    weight_quantizer, weights = draw(st.sampled_from(INTEGER_WEIGHTS))
    neuron = draw(st.sampled_from(neurons))
    kept = [kind for kind in INTEGER_STATES if neuron != "alpha" or kind[0] == "uniform"]
    state_quantizer, states = draw(st.sampled_from(kept))
    tabled = state_quantizer in TABLED
    norms = ("none", "psp") if NEURONS[neuron].readout or tabled else NORMS
    size = draw(st.integers(1, 5))
    standardize = weight_quantizer != "maqd" and draw(st.booleans())
    standardized = standardize or weight_quantizer == "maqd"  # of a single weight nothing is left
    layer = a_layer(
        name=name,
        size=size,
        neuron=neuron,
        recurrent=(size > 1 or not standardized) and not NEURONS[neuron].stateless and draw(recurrent),
        weights=weights,
        weight_quantizer=weight_quantizer,
        states=states,
        state_quantizer=state_quantizer,
        scale=draw(st.sampled_from(["row", "layer"])),
        state_range=draw(st.sampled_from([1.0, 3.7, 64.0])),
        decay_bits=draw(st.integers(1, 12)),
        decay_per=draw(st.sampled_from(["layer", "neuron"])),
        threshold=draw(st.sampled_from([0.1, 1.0, 30.0])),
        threshold_per="auto" if tabled else draw(st.sampled_from(["layer", "neuron"])),
        bias=draw(st.booleans()),
        pool=draw(st.sampled_from(["last", "max"])) if neuron == "li" else "last",
        norm=draw(st.sampled_from(norms)),
        standardize=standardize,
        gain=draw(st.sampled_from([0.5, 2.0, 20.0])),
        current_bits=draw(st.none() | st.integers(2, 16)),
        adaptation_bits=draw(st.none() | st.integers(2, 16)),
        **draw(neuron_options(neuron, state_quantizer, states)),
    )
    assume(works(layer))
    return layer


def works(layer: Layer) -> bool:
    """Whether its states have room for its thresholds: else it is refused, see test_quantizers.py."""
    neuron, states = layer.neuron, layer.states
    subtracted = neuron.reset == "subtract"
    if not neuron.fires or layer.after_reset or neuron.stateless:
        return True
    if isinstance(states, Uniform):
        return not subtracted or neuron.timing == "delayed" or states.range < 2**states.membrane
    needed = 2 * neuron.spikes if subtracted or neuron.spikes > 1 else 0
    return not isinstance(states, Shared) or 2 ** (states.membrane - 1) - 1 >= needed


# ---- an independent reference, in plain integers


def half_up(x: int, shift: int) -> int:
    """x / 2^shift, rounded half up."""
    return (2 * x + 2**shift) // 2 ** (shift + 1)


def kept(level: int, shift: int, bits: int) -> int:
    """The code of a level on an even grid of so many bits."""
    return min(max(half_up(level, shift), -(2 ** (bits - 1))), 2 ** (bits - 1) - 1)


def plain_steps(network: SpikingNetwork, x: list[list[int]]) -> list[dict[str, list[int]]]:
    """The first layer's states and spikes after each step on one sample, from the equations of a neuron alone."""
    layer = network.stack[0]
    config, integers, p = layer.config, layer.integers(), layer.integers().params
    size, alpha = config.size, config.neuron.kind == "alpha"
    adapts = config.neuron.adaptation is not None
    fan_in_shift, recurrent_shift, state_shift = layer.shifts.tolist()

    def ints(values: Tensor | None) -> list[Any]:
        return [0] * size if values is None else values.to(torch.int64).tolist()

    def each(table: Tensor | None) -> list[int]:
        return ints(None if table is None else table.expand(size))

    weights, bias, adaptation, theta = (
        ints(integers.codes), ints(integers.bias), each(p.adaptation), each(p.threshold)
    )  # fmt: skip
    recurrent = [[0] * size] * size if integers.recurrent is None else ints(integers.recurrent)
    decays = {name: each(getattr(p, name)) for name in ("decay", "synapse_decay", "adaptation_decay")}
    if config.neuron.decay == 1:  # a membrane that does not leak
        decays["decay"] = [2**p.decay_bits] * size
    table = p.grid if isinstance(p.grid, TableGrid) else None
    borders, levels = (ints(table.borders), ints(table.levels)) if table else ([], [])

    def encode(level: int) -> int:
        return sum(b <= level for b in borders) if table else kept(level, state_shift, config.states.width("membrane"))

    def decode(code: int) -> int:
        return int(levels[code]) if table else code * 2**state_shift

    def current_code(level: int) -> int:
        return kept(level, p.current_grid.shift, config.states.width("current"))

    def leaked(level: int, decay: str, j: int) -> int:
        return half_up(level * decays[decay][j], p.decay_bits)

    def fired(level: int, theta: int) -> int:
        return sum(level > k * theta for k in range(1, 2 * p.spikes, 2))

    def reset(level: int, theta: int, count: int) -> int:
        rest = {"subtract": level - (2 * count - 1) * theta, "none": level}
        return rest.get(p.reset, 0) if count else level

    def neuron(j: int, current: int, old: dict[str, int]) -> dict[str, int]:
        if config.neuron.kind == "step":
            return old | {"spike": fired(current, theta[j])}
        new, before = dict(old), decode(old["u"])
        if alpha:
            for name, decay, more in (("e", "synapse_decay", current), ("h", "decay", -current)):
                level = leaked(old[name] << p.current_grid.shift, decay, j) + more
                new[name] = current_code(reset(level, 0, old["spike"]))
            return new | {"spike": int((new["e"] + new["h"]) << p.current_grid.shift > theta[j])}
        if config.neuron.synapse is not None:
            new["i"] = current_code(leaked(old["i"] << p.current_grid.shift, "synapse_decay", j) + current)
            current = new["i"] << p.current_grid.shift
        shift, bits = p.adaptation_grid.shift, config.states.width("adaptation")
        raised = leaked(old["a"] << shift, "adaptation_decay", j) + old["spike"] * adaptation[j]
        new["a"] = kept(raised, shift, bits) if adapts else 0
        passed, threshold = (theta[j] + (code << shift) for code in (old["a"], new["a"]))
        new["rest"] = config.neuron.refractory if old["spike"] else max(old["rest"] - 1, 0)
        sent = old["spike"] if adapts or config.neuron.refractory else fired(before, passed)
        if p.reset == "zero-before":
            before = reset(before, passed, sent)
        level = leaked(before, "decay", j) + current
        if p.timing != "immediate" and p.reset != "zero-before":
            level = reset(level, passed, sent)
        new["u"] = encode(level)
        if not p.grid.after_reset:
            level = decode(new["u"])
        new["spike"] = 0 if new["rest"] else fired(level, threshold)
        if p.timing == "immediate" and p.reset != "none":
            new["u"] = encode(reset(level, threshold, new["spike"]))
        elif p.timing == "snntorch":
            new["u"] = encode(level - (new["spike"] - sent) * threshold)
        return new

    first = dict.fromkeys(("i", "a", "rest", "spike", "e", "h"), 0) | {"u": encode(0)}
    state, steps = [first] * size, []
    for inputs in x:
        spikes = [one["spike"] for one in state]  # all neurons read the old state
        for j, old in enumerate(tuple(state)):
            current = sum(w * v for w, v in zip(weights[j], inputs, strict=True)) * 2**fan_in_shift + bias[j]
            current += sum(w * s for w, s in zip(recurrent[j], spikes, strict=True)) * 2**recurrent_shift
            state = [*state[:j], neuron(j, current, old), *state[j + 1 :]]
        steps.append({name: [one[name] for one in state] for name in first})
    return steps


def assert_plain(network: SpikingNetwork, x: Ints) -> interpret.Trace:
    """The interpreter's trace of a network, whose layer `hidden` has the states and spikes of the plain equations."""
    trace = interpret.run(lower(network, "network").network, x)
    records = [name.partition(".")[2] for name in trace if name.startswith("hidden.")]
    assert records[-1] == "spike"
    for sample in range(len(x)):
        expected = plain_steps(network, x[sample].tolist())
        for record in records:
            assert trace[f"hidden.{record}"][sample].tolist() == [step[record] for step in expected], record
    return trace

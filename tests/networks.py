"""Small networks for the tests of what is emitted: trained ones, and integer programs that use every op."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import conftest
import numpy as np
import torch
from quantal.export.base.errors import BadInput
from quantal.export.base.fixed import Ints
from quantal.export.base.windows import Window
from quantal.export.build import Build, write_build
from quantal.export.emit.c.header import emit_header
from quantal.export.ir import interpret
from quantal.export.ir.fold import Folder
from quantal.export.ir.network import Layer, Network, StateVar
from quantal.export.ir.ops import (
    Add,
    Clamp,
    Gt,
    Input,
    Lookup,
    MatVec,
    Mul,
    Op,
    Select,
    Shl,
    Shr,
    State,
    Step,
    Sub,
    Table,
    operands,
)
from quantal.export.network_file import digest
from quantal.export.proof.intervals import Interval, evaluate, find_invariants, prove
from quantal.qat.config import schema
from quantal.qat.lower import exact_dtype, lower
from quantal.qat.network.network import SpikingNetwork, hard_trace

RANGES = ((0, 1), (-1, 1), (0, 255), (-128, 127), (-(2**15), 2**15 - 1), (0, 2**16 - 1), (-5, 3), (0, 15))
CLAIMS = ((-128, 127), (0, 1000), (-3_000_000, 70_000), (0, 1), (0, 300_000))


def random_network(
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
    return conftest.random_network(
        schema.Layer("first", 7, **(chosen | dict(hidden))),
        schema.Layer("second", 5, recurrent=True, **(chosen | dict(hidden))),
        schema.Layer("out", 4, neuron=neuron, pool=pool, **chosen),
        channels=channels,
        maximum=maximum,
        seed=seed,
    )


def write(network: SpikingNetwork | Network, path: Path, name: str, x: Ints) -> Build:
    """The build of `network` in the new folder `path`, its vectors what torch's hard forward does on x.

    Of an integer network that nobody trained, the interpreter's.
    """
    if isinstance(network, Network):
        lowered = network.renamed(name)
        write_build(path, prove(lowered), x, interpret.run(lowered, x))
    else:
        lowered = lower(network, name)
        write_build(path, lowered, x, hard_trace(network, x, exact_dtype(lowered)))
    return Build.open(path)


def header_of(network: Network, x: Ints) -> str:
    """The header of an integer network, whose self test is what the interpreter does on x."""
    proven = prove(network)
    return emit_header(proven, digest(proven), x, interpret.run(network, x))


def input_for(network: SpikingNetwork | Network, samples: int, steps: int, seed: int = 0) -> Ints:
    """At random from the network's range, but first: least, greatest, by turns of step, of channel; edges at random."""
    trained = isinstance(network, SpikingNetwork)
    lo, hi = (0, network.input_maximum) if trained else (network.input_lo, network.input_hi)
    shape = samples, steps, network.inputs
    rng = np.random.default_rng(seed)
    x = rng.integers(lo, hi, shape, np.int64, endpoint=True)
    x[4] = rng.choice(np.clip([lo, lo + 1, -1, 0, 1, hi - 1, hi], lo, hi), shape[1:])
    step, channel = np.indices(shape[1:])
    for sample, high in enumerate((step < 0, step >= 0, step % 2 == 0, (step + channel) % 2 == 0)):
        x[sample] = np.where(high, hi, lo)
    return x


def lively(make: Callable[[int], Any], seeds: Iterable[int], samples: int = 8, steps: int = 9) -> tuple[Any, Ints]:
    """The first network of those seeds in which every record moves, and the input on which it does."""
    for seed in seeds:
        network = make(seed)
        x = input_for(network, samples, steps, seed)
        trained = isinstance(network, SpikingNetwork)
        trace = hard_trace(network, x, torch.float64) if trained else interpret.run(network, x)
        if all(np.ptp(values) > 0 for values in trace.values()):
            return network, x
    raise AssertionError("in none of these networks does every record move")


def random_program(seed: int) -> Network:
    """An integer network that nobody trained, with every op in every layer; equal seeds give equal networks."""
    rng = np.random.default_rng(seed)
    lo, hi = RANGES[seed % len(RANGES)]
    inputs = int(rng.integers(1, 9))
    encoding = {"kind": "direct", "steps": 9, "channels": inputs}
    network = Network("program", inputs, lo, hi, encoding, ())
    known, widths = {"input": Interval.of(lo, hi)}, {"input": network.inputs}
    for name in ("first", "second", "third")[: rng.integers(1, 4)]:
        source = str(rng.choice(list(known)))
        layer = _random_layer(rng, name, int(rng.choice([1, 2, 3, 7])), known, source, widths[source])
        network = replace(network, layers=(*network.layers, layer))
        known[name], widths[name] = prove(network).intervals[-1][layer.output], layer.size
    return network


class _Draft:
    """A layer that grows op by op, each op proven to fit in 32 bits."""

    def __init__(self, layer: Layer, inputs: dict[str, Interval]):
        self.layer, self.inputs = layer, inputs
        self.claims = {state.name: Interval.of(state.lo, state.hi) for state in layer.states}
        self.hulls: list[tuple[int, int]] = []

    def add(self, op: Op) -> int:
        """The index of the op's value. Raises BadInput where it does not fit."""
        grown = replace(self.layer, ops=(*self.layer.ops, op))
        self.hulls = [interval.hull for interval in evaluate(grown, self.inputs, self.claims)]
        self.layer = grown
        return len(grown.ops) - 1

    def first_of(self, draw: Callable[[], Op]) -> int:
        """As `add`, for the first op drawn that fits."""
        while True:
            try:
                return self.add(draw())
            except BadInput:
                continue


def _random_layer(
    rng: np.random.Generator, name: str, size: int, inputs: dict[str, Interval], source: str, width: int
) -> Layer:
    def codes(columns: int) -> np.ndarray:
        return rng.integers(-128, 128, (size, columns)).astype(np.int8)

    def several(count: int) -> tuple[int, ...]:
        return tuple(rng.integers(-1000, 1000, count).tolist())

    claims = [CLAIMS[i] for i in sorted(rng.permutation(len(CLAIMS))[:3])]
    states = tuple(StateVar(f"s{i}", int(rng.integers(lo, hi + 1)), lo, hi, 0) for i, (lo, hi) in enumerate(claims))
    weights = {"fan_in": codes(width), "fed_back": codes(size)}
    draft = _Draft(Layer(name, size, {}, (), states, weights, 0, "value"), inputs)
    fan_in = draft.add(Input(source))
    products = [draft.add(MatVec("fan_in", fan_in))]
    values = [draft.add(State(state.name)) for state in states]
    products.append(draft.add(MatVec("fed_back", values[0])))
    values += [*products, draft.add(Table((int(rng.integers(-500, 500)),))), draft.add(Table(several(size)))]
    values += [fan_in] * (width == size)

    def draw(kind: type[Op]) -> Op:
        a, b, c = rng.choice(values, 3, replace=False).tolist()
        if kind in (Shr, Shl):
            return kind(a, int(rng.integers(0, 32)))
        if kind is Clamp:
            return Clamp(a, *sorted(several(2)))
        if kind is Select:
            return Select(a, b, c)
        if kind is Step:
            return Step(a, tuple(sorted(set(several(5)))))
        if kind is Lookup:
            codes = [v for v in values if draft.hulls[v][0] >= 0 and draft.hulls[v][1] < 50]
            a = int(rng.choice(codes))
            return Lookup(a, several(draft.hulls[a][1] + 1))
        return kind(a, b)

    values.append(draft.first_of(lambda: draw(Step)))
    kinds = [Add, Sub, Mul, Shr, Shl, Clamp, Gt, Select, Step, Lookup] * 2
    for index in rng.permutation(len(kinds)):
        values.append(draft.first_of(lambda kind=kinds[index]: draw(kind)))  # type: ignore[misc]
    read = {value for op in draft.layer.ops for value in operands(op)}
    total = products[0]
    for value in [v for v in values if v not in read]:
        total = draft.add(Add(draft.add(Clamp(value, -9999, 9999)), total))
    committed = []
    for state, value in zip(states, [total, *rng.choice(products, 2)], strict=True):
        (lo, hi), span = draft.hulls[value], 4 * (state.hi - state.lo)
        scaled = draft.add(Shr(int(value), max(0, ((hi - lo) // span).bit_length())))
        committed.append(replace(state, next=draft.add(Clamp(scaled, state.lo, state.hi))))
    output = draft.add(Clamp(total, -(2**15), 2**15 - 1))
    return replace(draft.layer, states=tuple(committed), output=output)


def table_levels(bits: int) -> tuple[int, ...]:
    """2^bits ascending levels, the further from 0 the wider apart."""
    half = 1 << (bits - 1)
    return tuple((k * abs(k) // 4 + 3 * k) << (8 - bits) for k in range(-half, half))


def table_lif(bits: int, timing: str = "delayed", seed: int = 0) -> Network:
    """A recurrent lif layer of 9 and a readout of 5, their membranes kept in 2^bits unevenly spaced levels."""
    rng = np.random.default_rng(seed)
    levels = table_levels(bits)
    borders = [(a + b + 1) // 2 for a, b in pairwise(levels)]
    top = 2 * levels[-1] // 9

    def membrane(ops: Folder, name: str, current: int, resets: bool) -> tuple[int, int]:
        """The code after a step, and whether its level is above the threshold."""
        before, theta, zero = ops.lookup(ops.state(name), levels), ops.const(levels[-1] // 4), ops.const(0)
        u = ops.add(ops.shr(ops.mul(before, ops.const(57)), 6), current)
        if resets and timing == "delayed":
            u = ops.sub(u, ops.select(ops.gt(before, theta), theta, zero))
        code = ops.step(u, borders)
        after = ops.lookup(code, levels)
        fires = ops.gt(after, theta)
        if resets and timing == "immediate":
            code = ops.step(ops.sub(after, ops.select(fires, theta, zero)), borders)
        return code, fires

    def weights(rows: int, columns: int) -> np.ndarray:
        return rng.integers(-min(top, 127), min(top, 127), (rows, columns), endpoint=True).astype(np.int8)

    start = sum(border <= 0 for border in borders)
    ops = Folder()
    current = ops.shl(ops.matvec("fan_in", ops.input("input")), 1)
    code, spike = membrane(ops, "u", ops.add(current, ops.matvec("back", ops.state("spike"))), resets=True)
    states = StateVar("u", start, 0, len(borders), code), StateVar("spike", 0, 0, 1, spike)
    matrices = {"fan_in": weights(9, 5), "back": weights(9, 9)}
    hidden = Layer("hidden", 9, {}, tuple(ops.ops), states, matrices, spike, "spike")
    ops = Folder()
    code, _ = membrane(ops, "u", ops.matvec("fan_in", ops.input("hidden")), resets=False)
    shown = ops.lookup(code, levels)
    states = (StateVar("u", start, 0, len(borders), code),)
    readout = Layer("readout", 5, {}, tuple(ops.ops), states, {"fan_in": weights(5, 9)}, shown, "level")
    return find_invariants(Network("table", 5, 0, 3, {}, (hidden, readout)))


TWO_POWERS = sorted({a * 2**i + b * 2**j for a in (-1, 0, 1) for b in (-1, 0, 1) for i in range(9) for j in range(9)})


def coded(widths: tuple[int, ...], lo: int, hi: int, seed: int = 0) -> Network:
    """A layer for each width of codes, in turn of 17 and of 5 neurons, on integers in [lo, hi] and then on spikes.

    Each has three matrices for its input, its own spikes and its signed state: of weights, of codes of any weights, and
    of codes of sums of two powers of two.
    """
    rng = np.random.default_rng((*widths, hi, seed))

    def layer(name: str, source: str, columns: int, size: int, bits: int) -> Layer:
        ops, weights = Folder(), {}
        tables = (
            (),
            tuple(rng.choice([-(2**15), *range(-300, 300), 2**15 - 1], 1 << bits, replace=False).tolist()),
            tuple(rng.choice(TWO_POWERS, 1 << bits).tolist()),
        )
        u = ops.const(0)
        for x, width in ((ops.input(source), columns), (ops.state("spike"), size), (ops.state("u"), size)):
            for levels in tables:
                matrix, least = f"w{len(weights)}", 0 if levels else -(1 << bits >> 1)
                weights[matrix] = rng.integers(least, least + (1 << bits), (size, width)).astype(np.int16)
                u = ops.add(ops.shr(ops.matvec(matrix, x, levels), 2), u)
        draft = Layer(name, size, {}, tuple(ops.ops), (), weights, u, "spike")
        inputs = {"input": Interval.of(lo, hi), source: Interval.of(min(lo, 0), max(hi, 1))}
        hull = evaluate(draft, inputs, {"spike": Interval.of(0, 1), "u": Interval.of(-400, 90)})[u].hull
        u = ops.clamp(ops.shr(u, ((hull[1] - hull[0]) // 8000).bit_length()), -400, 90)
        spike = ops.gt(u, ops.const(5))
        states = StateVar("u", 3, -400, 90, u), StateVar("spike", 1, 0, 1, spike)
        return Layer(name, size, {}, tuple(ops.ops), states, weights, spike, "spike")

    layers: list[Layer] = []
    for index, bits in enumerate(widths):
        source, columns = (layers[-1].name, layers[-1].size) if layers else ("input", 5)
        layers.append(layer(f"layer{index}", source, columns, (17, 5)[index % 2], bits))
    layers[-1] = replace(layers[-1], output=layers[-1].state("u").next)
    return Network("coded", 5, lo, hi, {}, tuple(layers))


def whole_word() -> tuple[Network, Ints]:
    """A network in which any 32-bit integer goes through the ops: this step's 16-bit input on top, the last one below.

    Shifts by s, right and left, of the largest interval that fits (right, left), of its lower end (low), and so on.
    Sums of products go beyond the integers that float32 holds.
    Its inputs make the words on both sides of where each right shift changes its result, and the ends of the range.
    """
    least, most = -(2**31), 2**31 - 1
    ops: list[Op] = [Input("input"), State("last"), Table((2**15,)), Add(1, 2), Shl(0, 16), Add(4, 3)]
    states = [StateVar("last", 0, -(2**15), 2**15 - 1, 0)]

    def value(op: Op) -> int:
        ops.append(op)
        return len(ops) - 1

    def keep(name: str, op: Op, lo: int = least, hi: int = most) -> int:
        states.append(StateVar(name, min(max(lo, 0), hi), lo, hi, value(op)))
        return len(ops) - 1

    word = 5
    for s in range(32):
        half = (1 << s) >> 1
        keep(f"right{s}", Shr(value(Clamp(word, least, most - half)), s))
        keep(f"low{s}", Shr(value(Add(value(Clamp(word, -(2**15), 3)), value(Table((least + 2**15,))))), s))
        keep(f"left{s}", Shl(value(Clamp(word, least >> s, most >> s)), s))
    borders = least, least + 1, -1, 0, 65536, most
    thresholds = value(Table((least, most, 0, 65536, -1, most - 1)))
    above = keep("above", Gt(word, thresholds), 0, 1)
    keep("chosen", Select(above, word, thresholds))
    keep("high", Gt(word, value(Table((65536, 70000, 80000, 90000, most - 1, most)))), 0, 1)
    code = keep("code", Step(word, borders), 0, len(borders))
    keep("level", Lookup(code, (*borders, 5)))
    keep("natural", Clamp(word, 0, most), 0, most)
    keep("product", Mul(value(Clamp(word, -46340, 46340)), value(Clamp(word, -46340, 46341))))
    keep("sum", MatVec("w", 0))
    keep("minus", Sub(value(Table((-1,))), word))
    encoding = {"kind": "direct", "steps": 9, "channels": 6}
    weights = {"w": np.full((6, 6), 127, np.int8) - np.eye(6, dtype=np.int8)}
    layer = Layer("all", 6, {}, tuple(ops), tuple(states), weights, word, "word")
    network = Network("word", 6, -(2**15), 2**15 - 1, encoding, (layer,))
    edges = [odd * 2 ** (s - 1) + d for s in range(1, 32) for odd in (-3, -1, 1, 5) for d in (-1, 0, 1)]
    ends = [least, least + 1, most - 1, most]
    words = np.resize([w for w in (*ends, *edges) if least <= w <= most], (9, 10, 6))
    return network, np.stack([(words & 0xFFFF) - 2**15, words >> 16], axis=2).reshape(9, 20, 6)


def with_integer(text: str, start: str, index: int, change: Callable[[int], int]) -> str:
    """`text` with the index-th integer after the one place that matches the pattern `start` changed."""
    (place,) = re.finditer(start, text)
    number = list(islice(re.finditer(r"-?\d+", text[place.end() :]), index + 1))[-1]
    at, end = place.end() + number.start(), place.end() + number.end()
    return text[:at] + str(change(int(number[0]))) + text[end:]


WINDOWS: dict[str, tuple[Window, int, int]] = {  # window, groups, channels out
    "plane": (Window((1, 5, 6), (3, 2), (1, 1), (0, 0)), 1, 3),
    "strided": (Window((2, 6, 5), (3, 3), (2, 1), (1, 2)), 1, 4),
    "grouped": (Window((4, 4, 4), (2, 2), (1, 2), (1, 0)), 2, 8),
    "depthwise": (Window((3, 4, 3), (3, 3), (1, 1), (1, 1)), 3, 3),
    "line": (Window((2, 1, 11), (1, 4), (1, 3), (0, 2)), 1, 5),
    "everything": (Window((3, 3, 4), (3, 4), (1, 1), (0, 0)), 1, 6),
}


def windowed(case: str, bits: int, lo: int, hi: int, seed: int) -> Network:
    """Convolutions with and without levels, a pool of their spikes, delays of them, and a layer that reads them all."""
    rng = np.random.default_rng(seed)
    window, groups, channels = WINDOWS[case]
    reach = 1 << (bits - 1)
    size, levels = (
        channels * window.positions,
        tuple(sorted(rng.choice(np.arange(-200, 201), 2**bits, replace=False).tolist())),
    )

    def drawn(*shape: int) -> np.ndarray:
        return rng.integers(-reach, max(reach, 2), shape).astype(np.int16)

    def fired(ops: Folder, current: int, limit: int) -> tuple[int, int]:
        """(spike, membrane) of neurons with a threshold a channel."""
        level = ops.add(ops.shr(ops.state("u"), 1), current)
        thresholds = ops.table(rng.integers(0, limit, channels).tolist(), "threshold")
        return ops.gt(level, thresholds), ops.clamp(level, -1000, 1000)

    ops = Folder()
    kernels = {"plain": drawn(channels, window.shape[0] // groups * window.kernel[0] * window.kernel[1])}
    kernels["coded"] = rng.integers(0, 2**bits, kernels["plain"].shape).astype(np.int16)
    x = ops.input("input")
    current = ops.add(ops.conv("plain", x, window, groups), ops.conv("coded", x, window, groups, levels))
    spike, u = fired(ops, current, 8 * max(abs(lo), hi))
    states = (StateVar("u", 0, -1000, 1000, u), StateVar("past", 0, 0, 1, spike, delay=2))
    image = Layer("image", size, {}, tuple(ops.ops), states, kernels, spike, "spike")

    pool = Window((channels, *window.out), (min(2, window.out[0]), min(3, window.out[1])), (1, 2), (0, 0))
    ops = Folder()
    total = ops.sumpool(ops.input("image"), pool)
    pooled = Layer("pooled", channels * pool.positions, {}, tuple(ops.ops), (), {}, total, "sum")

    ops = Folder()
    now, old = ops.input("image"), ops.state("line")
    line = Layer("late", size, {}, tuple(ops.ops), (StateVar("line", 1, 0, 1, now, delay=3),), {}, old, "spike")

    ops = Folder()  # its own spikes come back three steps late, by a convolution of the plane that they are
    plane = Window((channels, *window.out), (1, 1), (1, 1), (0, 0))
    weights = {"direct": drawn(size, size), "summed": drawn(size, channels * pool.positions)}
    weights |= {"back": drawn(channels, channels)}
    current = ops.add(ops.matvec("direct", ops.input("late")), ops.matvec("summed", ops.input("pooled")))
    current = ops.add(ops.add(current, ops.conv("back", ops.state("sent"), plane, 1)), ops.input("image"))
    spike, u = fired(ops, current, 4)
    states = (StateVar("u", 0, -1000, 1000, u), StateVar("sent", 0, 0, 1, spike, delay=3))
    deep = Layer("deep", size, {}, tuple(ops.ops), states, weights, spike, "spike")

    ops = Folder()
    total = ops.add(ops.matvec("w", ops.input("deep")), ops.matvec("v", ops.input("pooled")))
    weights = {"w": drawn(4, size), "v": drawn(4, channels * pool.positions)}
    out = Layer("out", 4, {}, tuple(ops.ops), (), weights, total, "sum")
    return find_invariants(Network("windows", window.size, lo, hi, {}, (image, pooled, line, deep, out)))

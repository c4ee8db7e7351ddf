"""Integer networks that nobody trained: every op, the whole word, tables, and packed weights."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import numpy as np

from quantal.export.base.fixed import Ints
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
from support.networks import _Draft

# ---- the builder leaves out what costs nothing to leave out


class Plain(Folder):
    """Records every op as it is said."""

    def record(self, op: Op) -> int:
        self.ops.append(op)
        return len(self.ops) - 1

    def table(self, values: Iterable[int], name: str = "table") -> int:
        return self.record(Table(tuple(values), name))

    def add(self, a: int, b: int) -> int:
        return self.record(Add(a, b))

    def sub(self, a: int, b: int) -> int:
        return self.record(Sub(a, b))

    def shr(self, a: int, shift: int) -> int:
        return self.record(Shr(a, shift))

    def shl(self, a: int, shift: int) -> int:
        return self.record(Shl(a, shift))


RANGES = ((0, 1), (-1, 1), (0, 255), (-128, 127), (-(2**15), 2**15 - 1), (0, 2**16 - 1), (-5, 3), (0, 15))
CLAIMS = ((-128, 127), (0, 1000), (-3_000_000, 70_000), (0, 1), (0, 300_000))


def header_of(network: Network, x: Ints) -> str:
    """The header of an integer network, whose self test is what the interpreter does on x."""
    proven = prove(network)
    return emit_header(proven, digest(proven), x, interpret.run(network, x))


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

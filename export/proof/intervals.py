"""What every value can be, over all inputs and all time: the proof that nothing overflows.

A state carries a claim [lo, hi]. The claim is an invariant when it holds before the first step and when a step that
starts inside it ends inside it. `prove` checks that in one pass; `find_invariants` searches for small claims.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import assert_never

import numpy as np

from quantal.export.base import fixed
from quantal.export.base.errors import BadInput, shown
from quantal.export.base.fixed import Ints
from quantal.export.ir import ops
from quantal.export.ir.fold import without
from quantal.export.ir.network import Layer, Network
from quantal.export.ir.ops import Op, op_name

WORD_BITS = 32
WORD_LO, WORD_HI = -(2 ** (WORD_BITS - 1)), 2 ** (WORD_BITS - 1) - 1
_PATIENCE = 500  # a leak of 1 − 2^−6 settles within this; a state that does not gets its format's range


@dataclass(frozen=True)
class Interval:
    """[lo, hi], for each neuron or one for all."""

    lo: Ints
    hi: Ints

    @classmethod
    def of(cls, lo: int, hi: int) -> "Interval":
        """The same interval for every neuron."""
        return cls(np.array([lo], np.int64), np.array([hi], np.int64))

    @property
    def hull(self) -> tuple[int, int]:
        """The least and the greatest value over all neurons."""
        return int(self.lo.min()), int(self.hi.max())


def _corners(values: tuple[Ints, ...]) -> Interval:
    stacked = np.stack(np.broadcast_arrays(*values))
    return Interval(stacked.min(axis=0), stacked.max(axis=0))


def _around_zero(x: Interval, count: int) -> tuple[Ints, Ints]:
    """The ends for each of `count` values, widened to hold 0: then sums bound every partial sum, in every order."""
    return np.broadcast_to(np.minimum(x.lo, 0), (count,)), np.broadcast_to(np.maximum(x.hi, 0), (count,))


def _sums(weights: Ints, lo: Ints, hi: Ints, products: Callable[[Ints, Ints], Ints]) -> Interval:
    less, more = np.minimum(weights, 0), np.maximum(weights, 0)
    return Interval(products(lo, more) + products(hi, less), products(hi, more) + products(lo, less))


def _apply(
    op: Op, v: list[Interval], layer: Layer, inputs: Mapping[str, Interval], states: Mapping[str, Interval]
) -> Interval:
    match op:
        case ops.Input(source):
            return inputs[source]
        case ops.State(name):
            return states[name]
        case ops.Table():
            return Interval(layer.spread(op), layer.spread(op))
        case ops.MatVec(_, x):
            matrix = layer.matrix(op)
            lo, hi = _around_zero(v[x], matrix.shape[1])
            return _sums(matrix, lo, hi, lambda ends, w: ends @ w.T)
        case ops.Conv(_, x):
            window, groups = op.window, op.groups
            lo, hi = _around_zero(v[x], window.size)
            return _sums(layer.matrix(op), lo, hi, lambda ends, w: window.products(ends, w, groups))
        case ops.SumPool(x):
            lo, hi = (op.window.gathered(end).sum(axis=-1) for end in _around_zero(v[x], op.window.size))
            return Interval(lo.reshape(-1), hi.reshape(-1))
        case ops.Add(u) if (leak := layer.leak(op)) is not None:  # it never falls where u rises, so its ends are exact
            return Interval(v[u].lo + fixed.shr(-v[u].lo, leak), v[u].hi + fixed.shr(-v[u].hi, leak))
        case ops.Add(a, b):
            return Interval(v[a].lo + v[b].lo, v[a].hi + v[b].hi)
        case ops.Sub(a, b):
            return Interval(v[a].lo - v[b].hi, v[a].hi - v[b].lo)
        case ops.Mul(a, b):
            return _corners((v[a].lo * v[b].lo, v[a].lo * v[b].hi, v[a].hi * v[b].lo, v[a].hi * v[b].hi))
        case ops.Shr(a, shift):
            return Interval(fixed.shr(v[a].lo, shift), fixed.shr(v[a].hi, shift))
        case ops.Shl(a, shift):
            return Interval(fixed.shl(v[a].lo, shift), fixed.shl(v[a].hi, shift))
        case ops.Clamp(a, lo, hi):
            return Interval(fixed.clamp(v[a].lo, lo, hi), fixed.clamp(v[a].hi, lo, hi))
        case ops.Gt(a, b):
            return Interval(fixed.gt(v[a].lo, v[b].hi), fixed.gt(v[a].hi, v[b].lo))
        case ops.Select(_, a, b):
            return _corners((v[a].lo, v[a].hi, v[b].lo, v[b].hi))
        case ops.Step(a, borders):
            sorted_borders = np.array(borders, np.int64)
            return Interval(fixed.step(v[a].lo, sorted_borders), fixed.step(v[a].hi, sorted_borders))
        case ops.Lookup(a, levels):
            first, last = v[a].hull
            if first < 0 or last >= len(levels):
                where = f"its code lies in [{first}, {last}]"
                raise BadInput(f"layer {layer.name}: LOOKUP has {len(levels)} levels, {where}")
            reached = levels[first : last + 1]
            return Interval.of(min(reached), max(reached))
        case _:
            assert_never(op)


def _check_word(layer: Layer, index: int, interval: Interval, bits: int) -> None:
    bad = np.flatnonzero((interval.lo < -(1 << bits - 1)) | (interval.hi >= 1 << bits - 1))
    if bad.size:
        first = int(bad[0])
        raise BadInput(
            f"layer {layer.name}, neuron {first}: {op_name(layer.ops[index])} (value {index}) lies in "
            f"[{int(interval.lo[first])}, {int(interval.hi[first])}], which {bits} bits cannot hold"
        )


def evaluate(
    layer: Layer, inputs: Mapping[str, Interval], states: Mapping[str, Interval], bits: int = WORD_BITS
) -> list[Interval]:
    """The interval of every value of one step. Raises BadInput, naming layer and neuron, beyond so many bits."""
    values: list[Interval] = []
    for index, op in enumerate(layer.ops):
        if isinstance(op, ops.Shr):
            _check_word(layer, index, rounded(op, values), bits)
        values.append(_apply(op, values, layer, inputs, states))
        _check_word(layer, index, values[-1], bits)
    return values


def rounded(op: ops.Shr, values: Sequence[Interval]) -> Interval:
    """What a right shift shifts: its operand, and half a step that is added to it first."""
    return Interval(values[op.a].lo, values[op.a].hi + ((1 << op.shift) >> 1))


def _check_constants(layer: Layer) -> None:
    """Raises BadInput where borders, levels or bounds, which no value need reach, are beyond 32 bits."""
    for index, op in enumerate(layer.ops):
        for field in fields(op):
            given = getattr(op, field.name)
            numbers = given if isinstance(given, tuple) else (given,) if isinstance(given, int) else ()
            if numbers and not WORD_LO <= min(numbers) <= max(numbers) <= WORD_HI:
                odd = next(number for number in numbers if not WORD_LO <= number <= WORD_HI)
                raise BadInput(
                    f"layer {layer.name}: {op_name(op)} (value {index}): {field.name}: {shown(odd)} is beyond 32 bits"
                )


def claims_of(layer: Layer) -> dict[str, Interval]:
    """What each state is claimed to lie in."""
    return {state.name: Interval.of(state.lo, state.hi) for state in layer.states}


@dataclass(frozen=True)
class Proven:
    """A network, and the interval of every value of every layer, whatever comes in. `prove` makes it, once."""

    network: Network
    intervals: tuple[tuple[Interval, ...], ...]

    @property
    def layers(self) -> Iterator[tuple[Layer, tuple[Interval, ...]]]:
        """Each layer, and the intervals of its values."""
        return zip(self.network.layers, self.intervals, strict=True)


def prove(network: Network) -> Proven:
    """The network, proven. Raises BadInput where a value does not fit in a word, or a state's claim is no invariant."""
    inputs = {"input": Interval.of(network.input_lo, network.input_hi)}
    proven = []
    for layer in network.layers:
        _check_constants(layer)
        values = evaluate(layer, inputs, claims_of(layer))
        for state in layer.states:
            lo, hi = values[state.next].hull
            if not (state.lo <= min(lo, state.init) and max(hi, state.init) <= state.hi):
                neuron = int(np.argmax((values[state.next].lo < state.lo) | (values[state.next].hi > state.hi)))
                raise BadInput(
                    f"layer {layer.name}, neuron {neuron}: state {state.name} starts at {state.init} and is committed "
                    f"in [{lo}, {hi}], outside its claimed interval [{state.lo}, {state.hi}]"
                )
        inputs[layer.name] = values[layer.output]
        proven.append(tuple(values))
    return Proven(network, tuple(proven))


def find_invariants(network: Network) -> Network:
    """The network with the smallest claims that the search finds, and without the clamps they prove dead.

    From the initial states, the reachable interval grows step by step until it no longer does: the least invariant
    of this form. A state that does not settle gets the range of its format; whether that holds is for `prove` to say.
    """
    inputs = {"input": Interval.of(network.input_lo, network.input_hi)}
    layers = []
    for layer in network.layers:
        claims = {state.name: Interval.of(state.init, state.init) for state in layer.states}
        for rounds in range(1, 4 * _PATIENCE):
            values = evaluate(layer, inputs, claims)
            grown = {s.name: _hull_of(claims[s.name], values[s.next]) for s in layer.states}
            if all(grown[name].hull == claims[name].hull for name in claims):
                break
            if rounds % _PATIENCE == 0:
                formats = claims_of(layer)
                grown = {k: v if v.hull == claims[k].hull else _hull_of(formats[k], v) for k, v in grown.items()}
            claims = grown
        else:  # no claim of this form holds: prove will name the state
            claims = claims_of(layer)
            values = evaluate(layer, inputs, claims)
        bounds = {name: claim.hull for name, claim in claims.items()}
        states = tuple(replace(s, lo=bounds[s.name][0], hi=bounds[s.name][1]) for s in layer.states)
        dead = {
            index: op.a
            for index, op in enumerate(layer.ops)
            if isinstance(op, ops.Clamp) and op.lo <= values[op.a].hull[0] and values[op.a].hull[1] <= op.hi
        }
        layers.append(without(replace(layer, states=states), dead))
        inputs[layer.name] = values[layer.output]
    return replace(network, layers=tuple(layers))


def _hull_of(a: Interval, b: Interval) -> Interval:
    return Interval.of(min(a.hull[0], b.hull[0]), max(a.hull[1], b.hull[1]))

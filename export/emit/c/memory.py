"""What a network keeps in C: the arrays of its state, and where in them each record of a step is found."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from quantal.export.base import fixed, names
from quantal.export.base.word import Word
from quantal.export.emit.c.text import c_type
from quantal.export.ir.network import Layer, Network, StateVar
from quantal.export.proof.intervals import Interval, Proven

INDEX = Word(signed=False, bits=16)
"""What the number of a slot is kept in."""


@dataclass(frozen=True)
class Array:
    """An array of the state or of the scratch memory: name, length, and what the header says of it."""

    word: Word
    name: str
    size: int
    comment: str = ""

    @property
    def type(self) -> str:
        """Of one of its entries, in C."""
        return c_type(self.word)


@dataclass(frozen=True)
class Ring:
    """The values of a state at the last steps: `array` are those of one, and there are as many as `slots`.

    A step moves on first: then the slot that the field `place` names holds what the step reads. It writes over that,
    neuron by neuron, or, where the layer passes on what it reads, over the slot before, which nobody reads any more.
    """

    array: Array
    slots: int
    passed_on: bool

    @classmethod
    def of(cls, layer: Layer, state: StateVar) -> "Ring":
        """That of a state of the layer (Layer.rings)."""
        passed_on = state is layer.passed_on
        return cls(_array_of(layer, state), state.delay + passed_on, passed_on)

    @property
    def bytes(self) -> int:
        """What it takes, with its place."""
        return self.slots * self.array.size * self.array.word.bytes + INDEX.bytes

    @property
    def place(self) -> str:
        """The field that says in which slot the oldest are."""
        return names.ring_index(self.array.name)

    @property
    def oldest(self) -> str:
        """What a step reads, as C."""
        return f"state->{self.array.name}[state->{self.place}]"

    @property
    def newest(self) -> str:
        """What a step has written, as C: of two slots, the other."""
        return f"state->{self.array.name}[1 - state->{self.place}]" if self.slots == 2 else self.oldest

    @property
    def advance(self) -> str:
        """The line that moves on."""
        at, last = f"state->{self.place}", self.slots - 1
        return f"{at} = (uint16_t)({at} == {last} ? 0 : {at} + 1);"


@dataclass(frozen=True)
class Record:
    """What a step leaves to be compared: `place` is where its values begin, as C."""

    name: str
    word: Word
    size: int
    place: str

    @property
    def bytes(self) -> int:
        """How many they take."""
        return self.size * self.word.bytes


def interval_comment(lo: int, hi: int, fraction: int = 0) -> str:
    """An interval, and fxpmath's name of its format."""
    return f"[{lo}, {hi}], {fixed.dtype_name(lo, hi, fraction)}"


def _array_of(layer: Layer, state: StateVar) -> Array:
    name = names.field(names.record(layer.name, state.name))
    comment = interval_comment(state.lo, state.hi, state.fraction)
    return Array(Word.holding(state.lo, state.hi), name, layer.size, comment)


def rings(layer: Layer) -> list[Ring]:
    """The layer's states that are kept in rings."""
    return [Ring.of(layer, state) for state in layer.rings]


def arrays(layer: Layer, intervals: tuple[Interval, ...]) -> dict[str, Array]:
    """The layer's records that have an array of their own, by name."""
    states = {names.record(layer.name, state.name): state for state in layer.states}
    found = {}
    for name, value in layer.records():
        if name in states and states[name] not in layer.rings:
            found[name] = _array_of(layer, states[name])
        elif name not in states and layer.passed_on is None:
            lo, hi = intervals[value].hull
            found[name] = Array(Word.holding(lo, hi), names.field(name), layer.size, interval_comment(lo, hi))
    return found


def records(proven: Proven) -> Iterator[Record]:
    """All that a step leaves, in the order of Layer.records, but the output of the network."""
    for layer, intervals in proven.layers:
        own = arrays(layer, intervals)
        kept = {names.record(layer.name, s.name): ring for s, ring in zip(layer.rings, rings(layer), strict=True)}
        for name, _ in layer.records():
            if name in own:
                yield Record(name, own[name].word, layer.size, f"state->{own[name].name}")
            else:  # a state that is passed on, or, under the name of the output, what it was
                ring = kept.get(name) or next(ring for ring in kept.values() if ring.passed_on)
                yield Record(name, ring.array.word, layer.size, ring.newest if name in kept else ring.oldest)


def output_place(layer: Layer) -> str:
    """Where the layer's output stands after its step, as C."""
    passed_on = layer.passed_on
    if passed_on is not None:
        return Ring.of(layer, passed_on).oldest
    return "state->" + names.field(next(name for name, value in layer.records() if value == layer.output))


def initial_values(proven: Proven) -> list[tuple[str, int, int]]:
    """(array, size, value) of all that a reset fills, as C: of a ring, each slot."""
    values = []
    for layer, intervals in proven.layers:
        initial = {names.record(layer.name, state.name): state.init for state in layer.states}
        values += [(array.name, array.size, initial.get(name, 0)) for name, array in arrays(layer, intervals).items()]
        for state, ring in zip(layer.rings, rings(layer), strict=True):
            values += [(f"{ring.array.name}[{slot}]", layer.size, state.init) for slot in range(ring.slots)]
    return values


# ---- the same as numpy reads it

Columns = list[tuple[str, str, tuple[int]]]
"""Of a record: name, numpy's code of its type, number of values."""


def record_columns(proven: Proven) -> Columns:
    """The records, packed, little-endian."""
    return [(record.name, record.word.dtype.str, (record.size,)) for record in records(proven)]


def ring_columns(network: Network) -> Columns:
    """The rings, and which of their slots has the oldest."""
    columns: Columns = []
    for layer in network.layers:
        for state, ring in zip(layer.rings, rings(layer), strict=True):
            name = names.record(layer.name, state.name)
            columns.append((names.ring(name), ring.array.word.dtype.str, (ring.slots * ring.array.size,)))
            columns.append((names.ring_index(name), INDEX.dtype.str, (1,)))
    return columns


def record_dtype(proven: Proven) -> np.dtype[np.void]:
    """What the test program writes after every step: the records, then the output."""
    return np.dtype([*record_columns(proven), ("output", "<i4", (proven.network.outputs,))])


def input_word(network: Network) -> Word:
    """That of one input."""
    return Word.holding(network.input_lo, network.input_hi)


def sample_word(network: Network) -> Word:
    """That of one value before the header's encoder."""
    return Word.holding(0, int(network.encoding.get("maximum", 0)))

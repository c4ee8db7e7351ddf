"""The bytes in which the test program, or a core, is asked and answers, function by function."""

from dataclasses import dataclass

import numpy as np

from quantal.export.emit.c.memory import Columns, input_word, record_columns, ring_columns, sample_word
from quantal.export.ir.interpret import Trace
from quantal.export.proof.intervals import Proven
from quantal.export.verify.probes import FILLINGS, Probe, length_of, macro


@dataclass(frozen=True)
class Answer:
    """What one function reads, and the tables that it writes one after the other: columns, and how many rows."""

    asked: bytes
    tables: tuple[tuple[Columns, int], ...]

    @property
    def size(self) -> int:
        """Bytes that are written."""
        return sum(np.dtype(columns).itemsize * rows for columns, rows in self.tables)

    def split(self, content: bytes) -> Trace:
        """What is in them, each column (rows, 1, values) under its name."""
        found: Trace = {}
        for columns, rows in self.tables:
            table = np.frombuffer(content, np.dtype(columns), rows)
            content = content[table.nbytes :]
            found |= {name: table[name].reshape(rows, 1, -1) for name, _, _ in columns}
        return found


def answers(probe: Probe, proven: Proven) -> dict[str, Answer]:
    """How each function of a header is asked, and in which columns it answers; names are those of Probe.of_header."""
    network = probe.network
    arrays = record_columns(proven)
    kept = _after("reset", [*arrays, *ring_columns(network)])
    left = [_number("classify"), *_after("classify", arrays)]
    read = probe.x.astype(input_word(network).dtype, order="C").tobytes()
    found = {
        "reset": Answer(b"", ((kept, len(FILLINGS)),)),
        "argmax": Answer(probe.outputs.astype("<i4").tobytes(), (([_number("argmax")], len(probe.outputs)),)),
        "classify": Answer(read, ((left, len(probe.x)), ([_number("classify of no steps")], 1))),
        "self_test": Answer(b"", (([_number("self_test")], 1),)),
        "macros": Answer(b"", ((_of_macros(probe), 1),)),
    }
    if probe.calls is not None:
        code = sample_word(network).dtype.str
        channels = (probe.calls.values.shape[1],)
        coded: Columns = [("encode", input_word(network).dtype.str, (network.inputs + 1,))]
        begun: tuple[tuple[Columns, int], ...] = ()
        if probe.calls.sent is not None:
            begun = (([("encoder_reset", code, (channels[0] + 1,))], len(FILLINGS)),)
            coded.append(("reference after encode", code, channels))
        asked = np.empty(len(probe.calls.steps), [("step", "<u4"), ("values", code, channels)])
        asked["step"], asked["values"] = probe.calls.steps, probe.calls.values
        found["encode"] = Answer(asked.tobytes(), (*begun, (coded, len(asked))))
    return found


def _number(name: str) -> tuple[str, str, tuple[int]]:
    return (name, "<u4", (1,))


def _of_macros(probe: Probe) -> Columns:
    columns: Columns = []
    for name, value in probe.macros.items():
        if isinstance(value, int):
            columns.append((macro(name), "<i4", (1,)))
        else:
            columns += [_number(length_of(macro(name))), (macro(name), "u1", (len(value),))]
    return columns


def _after(function: str, columns: Columns) -> Columns:
    return [(f"{name} after {function}", code, count) for name, code, count in columns]

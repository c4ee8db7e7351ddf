"""What a neuron computes, as equations: one for each state, for the output, and for what several of them read.

The words are those of network.json, SHR and CLAMP and so on; values have the names that the lines below have.
"""

import textwrap
from collections import Counter
from collections.abc import Sequence

from quantal.export.emit.c.text import WIDTH
from quantal.export.ir import ops
from quantal.export.ir.fold import needed
from quantal.export.ir.network import Layer
from quantal.export.ir.ops import op_name, operands

_LEAVES = ops.Input | ops.State | ops.Table | ops.Product


def equations(layer: Layer, called: Sequence[str]) -> list[str]:
    """The lines of a comment; none where nothing is computed. `called`: a name, or a number, for each value."""
    reads = Counter(read for value in needed(layer) for read in operands(layer.ops[value]))
    reads.update([layer.output, *(state.next for state in layer.states)])
    ends = {layer.output, *(state.next for state in layer.states)}
    shown = [
        value
        for value in sorted(needed(layer))
        if not isinstance(layer.ops[value], _LEAVES) and (value in ends or reads[value] > 1)
    ]
    lines = []
    for value in shown:
        text = f"{called[value]} = {_said(layer, value, called, frozenset(shown) - {value})}"
        lines += textwrap.wrap(text, WIDTH - 10, subsequent_indent="    ", break_long_words=False)
    return [f"{'/*' if index == 0 else ' *'} {line}" for index, line in enumerate(lines)] + [" */"] * bool(lines)


def _said(layer: Layer, value: int, called: Sequence[str], shown: frozenset[int], least: int = 0) -> str:
    """The value by what it is made of, down to leaves and to values that have an equation of their own.

    It has brackets around it where it binds less than `least`: choices 0, comparisons 1, sums 2, products 3.
    """
    op = layer.ops[value]
    if value in shown or isinstance(op, _LEAVES):
        return called[value]

    def part(read: int, binds: int = 0) -> str:
        return _said(layer, read, called, shown, binds)

    match op:
        case ops.Select(condition, a, b):
            text, binds = f"{part(condition, 1)} ? {part(a, 1)} : {part(b, 1)}", 0
        case ops.Gt(a, b):
            text, binds = f"{part(a, 2)} > {part(b, 2)}", 1
        case ops.Add(a, b):
            text, binds = f"{part(a, 2)} + {part(b, 2)}", 2
        case ops.Sub(a, b):
            text, binds = f"{part(a, 2)} - {part(b, 3)}", 2
        case ops.Mul(a, b):
            text, binds = f"{part(a, 3)} * {part(b, 3)}", 3
        case ops.Shl(a, shift):
            text, binds = f"{part(a, 3)} * {1 << shift}", 3
        case ops.Shr(a, shift):
            text, binds = f"SHR({part(a)}, {shift})", 4
        case ops.Clamp(a, lo, hi):
            text, binds = f"CLAMP({part(a)}, {lo}, {hi})", 4
        case _:
            text, binds = f"{op_name(op)}({', '.join(map(part, operands(op)))})", 4
    return text if binds >= least else f"({text})"

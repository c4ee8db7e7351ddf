"""What the values of a layer are called where they are emitted: as the neuron calls them, or by what they are."""

from collections.abc import Collection

from quantal.export.base.names import NEVER_ALONE
from quantal.export.ir.network import Layer
from quantal.export.ir.ops import Input, Op, State, SumPool, Table, Weighted

UNNAMED = ("constant", "table")
"""What tables are called that nobody has given a name."""


def value_names(layer: Layer, reserved: Collection[str] = ()) -> list[str]:
    """A name for each value, all different, none of them reserved: v and its index where it has no better one."""
    taken, found = set(reserved), []
    for index, op in enumerate(layer.ops):
        name = layer.labels.get(index) or _of_op(op, index)
        if name in taken or name in NEVER_ALONE or name.endswith("_t"):  # C has types of that ending
            name = f"{name}_{index}"
        taken.add(name)
        found.append(name)
    return found


def _of_op(op: Op, index: int) -> str:
    match op:
        case State(name):
            return f"old_{name}"
        case Input(source):
            return f"in_{source}"
        case Table(_, name) if name not in UNNAMED:
            return name
        case SumPool():
            return "window"
        case _:
            return op.weights if isinstance(op, Weighted) else f"v{index}"

"""How a state is kept: a code, and the level that it stands for, in accumulator units.

Written against `ops` as the neurons are (see neurons.py), and without torch as they are.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class ShiftGrid:
    """Evenly spaced levels, 2^shift apart: code = CLAMP(SHR(level, shift), lo, hi), level = SHL(code, shift).

    With shift 0 and infinite ends it keeps the level itself: full precision.
    after_reset: see qat/config/parts/layers.py.
    """

    shift: int
    lo: float
    hi: float
    after_reset: bool = False
    start = 0

    def encode(self, ops: Any, level: Any) -> Any:
        """The code of a level."""
        return ops.clamp(ops.called("rounded", ops.shr(level, self.shift)), self.lo, self.hi)

    def decode(self, ops: Any, code: Any) -> Any:
        """The level of a code."""
        return ops.shl(code, self.shift)

    def value(self, ops: Any, code: Any) -> Any:
        """What a readout shows of a code: the code, which is proportional to its level."""
        return code

    def mapped(self, table: Callable[[Any], Any]) -> "ShiftGrid":
        """The same grid: it has no tables."""
        return self


@dataclass(frozen=True)
class TableGrid:
    """Any levels: code = STEP(level, borders), how many borders lie at or below it; level = LOOKUP(code, levels).

    start: the code of level 0. passes: where gradients do in training: "clip", between the lowest and the highest
    level; "identity", everywhere; "soft", as through a sum of sigmoids, of `sharpness` by accumulator units, which
    moves with `log_reach`. after_reset: as ShiftGrid's.
    """

    start: int
    count: int
    passes: str
    borders: Any
    levels: Any
    log_reach: Any = None
    sharpness: Any = None
    after_reset: bool = False
    shift = 0
    lo = 0

    @property
    def hi(self) -> int:
        """The highest code."""
        return self.count - 1

    def encode(self, ops: Any, level: Any) -> Any:
        """The code of a level."""
        return ops.step(level, self.borders, self)

    def decode(self, ops: Any, code: Any) -> Any:
        """The level of a code."""
        return ops.lookup(code, self.levels)

    def value(self, ops: Any, code: Any) -> Any:
        """What a readout shows of a code: its level."""
        return self.decode(ops, code)

    def mapped(self, table: Callable[[Any], Any]) -> "TableGrid":
        """The same grid, `table` applied to all that it is made of."""
        parts = {name: getattr(self, name) for name in ("borders", "levels", "log_reach", "sharpness")}
        return replace(self, **{name: table(part) for name, part in parts.items() if part is not None})


@dataclass(frozen=True)
class SoftGrid:
    """What stands for a table while it is trained soft: the state is no code but the sum of sigmoids itself.

    Its forward has a `sharpness` of its own: gradients stay those of the table's.
    """

    table: TableGrid
    sharpness: Any
    shift = 0
    start = 0
    after_reset = False
    lo, hi = -math.inf, math.inf

    def encode(self, ops: Any, level: Any) -> Any:
        """The sum of sigmoids at a level."""
        return ops.soft_step(level, self.table, self.sharpness)

    def decode(self, ops: Any, code: Any) -> Any:
        """The same."""
        return code

    def value(self, ops: Any, code: Any) -> Any:
        """The same."""
        return code

    def mapped(self, table: Callable[[Any], Any]) -> "SoftGrid":
        """The same grid, `table` applied to all that it is made of."""
        return SoftGrid(self.table.mapped(table), table(self.sharpness))


Grid = ShiftGrid | TableGrid | SoftGrid

"""The C by which a product is computed: events add their rows of weights to sums, of all neurons or of what sees them.

An input or spike that is 0 costs its test alone.
"""

from dataclasses import dataclass

from quantal.export.base.windows import Window
from quantal.export.base.word import Word
from quantal.export.emit.c.text import block, c_type, loop
from quantal.export.emit.c.weights import Synapses


@dataclass(frozen=True)
class Product:
    """Each entry of `source` that is not 0 adds its row of `weights` to `count` sums, as `how` says.

    With a window, to the sums at each position that sees it, in its own share of `channels` (in, out); `weights` is
    empty where nothing but the entries themselves is added up.
    """

    sums: str
    count: int
    word: Word
    source: str
    row_type: str
    weights: str
    how: Synapses
    comment: str
    window: Window | None = None
    channels: tuple[int, int] = (1, 1)

    def lines(self) -> list[str]:
        """The block that computes the sums."""
        to = f"{c_type(self.word)} *const sums = {self.sums};"
        cleared = loop("i", self.count, "sums[i] = 0;")
        declared, added = self._dense() if self.window is None else self._windowed(self.window)
        head, *rest = block("", to, *declared, *cleared, *added)
        return [f"{head.strip()} /* {self.comment} */", *rest]

    def _dense(self) -> "_Parts":
        how, rows = self.how, len(self.how.rows)
        row = f"const {self.row_type} *const row = {self.weights}[e];"
        event = block("if (x != 0)", row, *how.event, *self._added("sums[{}]", how.sums))
        over = loop("e", rows, f"const int32_t x = {self.source}[e];", *event)
        # For Frama-C: how often to unroll the loop, so that the sum has exact bounds.
        return [], [f"/*@ loop unroll {rows}; */", *over] if how.base else over

    def _windowed(self, window: Window) -> "_Parts":
        """Every entry in turn: the windows that see it, by its place in them, down and then across."""
        (channels, height, width), (into, out) = window.shape, self.channels
        (tall, wide), (down, across) = window.kernel, window.out
        declared = [f"{c_type(self.word)} *at;", "int32_t channel, place, down, across;"]
        share, row = f"channel / {into} * {out * window.positions}", []
        if self.weights:
            declared.insert(1, f"const {self.row_type} *row;")
            row = [f"row = {self.weights}[(channel * {tall} + down) * {wide} + across];"]
        adds = self._added("at[{} * " + str(window.positions) + "]", out)
        at = f"{share} + top / {window.stride[0]} * {across} + left / {window.stride[1]}"
        columns = [f"const int32_t left = place % {width} + {window.padding[1]} - across;"]
        columns += _unless_seen("left", window.stride[1], across)
        rows = [f"const int32_t top = place / {width} + {window.padding[0]} - down;"]
        rows += _unless_seen("top", window.stride[0], down)
        rows += loop("across", wide, *columns, f"at = sums + {at};", *row, *adds)
        entry = [f"const int32_t x = {self.source}[channel * {height * width} + place];"]
        entry += [*block("if (x == 0)", "continue;"), *self.how.event]
        windows, *rest = loop("down", tall, *rows)
        entry += [f"{windows} /* the windows that see it, by its place in them */", *rest]
        return declared, loop("channel", channels, *loop("place", height * width, *entry))

    def _added(self, place: str, count: int) -> list[str]:
        """The loop over the targets of an event: what each code of a byte, or the one of a row, adds to its sum."""
        terms = self.how.terms
        # A sum of 16 bits is added to in 32, where an int has 16.
        wide = "(int32_t)" if self.word.bits == 16 and self.how.spikes else ""
        lines = [f"const uint_fast8_t b = row[i / {len(terms)}];"] if len(terms) > 1 else []
        for k, term in enumerate(terms):
            target = place.format("i" if k == 0 else f"(i + {k})" if "*" in place else f"i + {k}")
            lines.append(f"{target} = ({c_type(self.word)})({wide}{target} + {term});")
        return loop("i", count, *lines, step=len(terms))


_Parts = tuple[list[str], list[str]]
"""What a block declares at its beginning, and the lines that add all up."""


def _unless_seen(place: str, stride: int, positions: int) -> list[str]:
    """Goes on with the next where no position of a window begins at that place."""
    return block(
        f"if ({place} < 0 || {place} % {stride} != 0 || {place} / {stride} >= {positions})",
        "continue;",
    )

"""Weights in the header: codes packed into bytes, and the C by which an event x adds them to the sums of its targets.

Each way leaves the least for the loop over synapses: there, nothing is multiplied but x with a code that is the weight
itself, or with one of more levels than an event could afford to multiply beforehand.
"""

from dataclasses import dataclass

import numpy as np

from quantal.export.base.fixed import Ints
from quantal.export.emit.c.packing import by_group, code_bits, packed, packing, table_size

_FEW_LEVELS = 16  # up to here, and up to the number of neurons, an event multiplies them all beforehand


@dataclass(frozen=True)
class Synapses:
    """How one product is computed. Each event goes through its row's bytes b, or the one code row[i] at a time.

    `event` comes first, once an event. `terms`: what each code of a byte adds to its sum. The sums, of which there are
    a whole number of bytes, lie in [lo, hi]; the product is a sum with `before` written before it. `table`: the levels
    that terms look up in constants. `base`: what `event` adds to, 0 at first. `spikes`: terms are ints, as x is 1.
    """

    rows: Ints
    terms: list[str]
    lo: int
    hi: int
    of: str = "sums"
    event: tuple[str, ...] = ()
    before: str = ""
    table: tuple[int, ...] = ()
    base: str = ""
    spikes: bool = False

    @property
    def sums(self) -> int:
        """How many sums there are: the last neuron's code fills up the last byte, so they are all proven to fit."""
        return len(self.terms) * int(self.rows.shape[1])


def synapses(
    codes: Ints, groups: int, levels: tuple[int, ...], x: tuple[int, int], total: tuple[int, int], table: str, base: str
) -> Synapses:
    """The synapses of codes (neurons × inputs) on an input in the interval x; the product lies in the interval total.

    groups: of a convolution, else 0 (see packing.py). `table` and `base` are the names of what they may need.
    """
    inputs = codes.shape[1]
    bits = packing(len(codes), inputs, code_bits(codes, signed=not levels), groups).bits
    codes = by_group(codes, groups) if groups else codes
    neurons, rows = len(codes), packed(codes, bits)
    code = ["row[i]"] if bits == 8 else [_field(bits, k) for k in range(8 // bits)]
    spikes = x[0] >= 0 and x[1] <= 1
    times_x = "" if spikes else " * x"
    if not levels:
        half = 1 << (bits - 1)
        weight = code if bits == 8 else [f"((({c}) ^ {half}) - {half})" for c in code]
        return Synapses(rows, [w + times_x for w in weight], *total, spikes=spikes)
    used = levels[: int(codes.max()) + 1]
    first, step = used[0], used[-1] - used[0]
    if not groups and bits == 1 and inputs * max(abs(end) for end in x) * max(abs(first), abs(step)) < 2**31:
        ones = int(codes.sum(axis=1).max())  # Σ levels[code]·x = first·Σ x + step·Σ code·x
        return Synapses(
            rows, [f"({c}){times_x}" for c in code], ones * min(x[0], 0), ones * max(x[1], 0),
            of="sums of the inputs whose code is 1",
            event=(f"{base} += {first}{times_x};",),
            before=f"{base} {'-' if step < 0 else '+'} {abs(step)} * (int32_t)",
            base=base,
            spikes=spikes,
        )  # fmt: skip
    size = table_size(len(used), bits)
    if spikes or len(used) > min(_FEW_LEVELS, neurons):
        table_of_all = used + used[-1:] * (size - len(used))
        return Synapses(rows, [f"{table}[{c}]{times_x}" for c in code], *total, table=table_of_all, spikes=spikes)
    return Synapses(rows, [f"products[{c}]" for c in code], *total, event=_products(used, size))


def added(total: tuple[int, int]) -> Synapses:
    """The synapses of inputs that are added up as they are; the sum lies in the interval total."""
    return Synapses(np.zeros((1, 1), np.int64), ["x"], *total)


def _field(bits: int, k: int) -> str:
    """The k-th code in the byte b, its bits as they are."""
    shifted = f"b >> {k * bits}" if k else "b"
    if (k + 1) * bits == 8:
        return shifted
    return f"{f'({shifted})' if k else shifted} & {(1 << bits) - 1}"


def _products(levels: tuple[int, ...], size: int) -> tuple[str, ...]:
    """The lines that make `products`, x times each level: in unsigned words, where overflow and sign do not matter.

    Beyond the levels, up to `size`, they are 0.
    """
    how = "shifts and adds" if all(len(_powers(level)) <= 2 for level in levels) else "multiplications"
    return (
        f"/* x times each level, once, by {how} of words; what a row asks for is proven to fit. */",
        *(["const uint32_t u = (uint32_t)x;"] if any(level not in (0, 1) for level in levels) else []),
        f"const int32_t products[{size}] = {{",
        *(f"    {_product(level)}, /* {level} */" for level in levels),
        "};",
    )


def _product(level: int) -> str:
    """level · x as C, where u is the word of x."""
    powers = _powers(level)
    if level in (0, 1):
        return "x" if level else "0"
    if len(powers) > 2:
        return f"(int32_t)({'0u - ' if level < 0 else ''}u * {abs(level)}u)"
    terms = " ".join(f"{'-' if sign < 0 else '+'} (u << {place})" for sign, place in powers).replace("(u << 0)", "u")
    if terms.startswith("- "):
        return f"(int32_t)(0u {terms})"
    return f"(int32_t){terms[2:]}" if len(powers) == 1 else f"(int32_t)({terms[2:]})"


def _powers(level: int) -> list[tuple[int, int]]:
    """The fewest powers of two that add up to the level, as (sign, exponent), positive ones first."""
    powers, place = [], 0
    while level:
        if level & 1:
            powers.append((2 - (level & 3), place))  # −1 where another 1 follows: a run of ones becomes two powers
            level -= powers[-1][0]
        level, place = level >> 1, place + 1
    return sorted(powers, reverse=True)

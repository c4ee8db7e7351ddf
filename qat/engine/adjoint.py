"""A layer's step as recorded, and its forward and adjoint as lines of C or of Python.

The forward is written from the recorded ops; the adjoint from a rule per op: straight through for SHR, a mask for
CLAMP and SELECT, a surrogate for GT, products for MUL. So a new neuron has its kernels without anyone writing one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantal.export.base.errors import BadInput
from quantal.export.ir import ops
from quantal.export.ir.builder import Builder
from quantal.qat.arithmetic import neurons
from quantal.qat.arithmetic.grids import TableGrid
from quantal.qat.arithmetic.neurons import Neuron, Params, StateRange
from quantal.qat.arithmetic.surrogates import Surrogate
from quantal.qat.arithmetic.wiring import Shifts, Wires, layer_step


@dataclass(frozen=True)
class Encode:
    """STEP with borders that training moves; `passes`: where a gradient does, see grids.py."""

    a: int
    passes: str


@dataclass(frozen=True)
class Decode:
    """LOOKUP in levels that training moves."""

    a: int


@dataclass(frozen=True)
class Detach:
    """a, through which no gradient passes."""

    a: int


Op = ops.Op | Encode | Decode | Detach


class Recorder(Builder):
    """Records a step for training: what training moves is an input, and gradients may end."""

    ops: list[Op]  # type: ignore[assignment]

    def detach(self, a: int) -> int:
        """The same value, through which no gradient passes."""
        return self.record(Detach(a))  # type: ignore[arg-type]

    def step(self, a: int, borders: object, grid: TableGrid) -> int:  # type: ignore[override]
        """The code of a, by borders that are given when it runs."""
        return self.record(Encode(a, grid.passes))  # type: ignore[arg-type]

    def lookup(self, a: int, levels: object) -> int:
        """The level of a, of levels that are given when it runs."""
        return self.record(Decode(a))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Recorded:
    """A layer's step: ops, output, states after, the surrogate, and the names of its grid's learned ranges."""

    ops: tuple[Op, ...]
    output: int
    after: dict[str, int]
    surrogate: Surrogate
    ranges: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """All that a layer's kernels depend on: `params` without its tables, and the names of those that there are.

    `whole_codes`: the codes are known to be integers of at most 8 bits, which a bfloat16 holds. `given`: what the sums
    of the products are comes in. `truncate`: no gradient passes from a step t that it divides to the step before; 0
    where all do.
    """

    neuron: Neuron
    params: Params
    states: tuple[tuple[str, StateRange], ...]
    shifts: Shifts
    recurrent: bool
    tables: tuple[str, ...]
    inputs: int
    size: int
    surrogate: Surrogate
    double: bool
    whole_codes: bool = False
    given: bool = False
    truncate: int = 0

    @property
    def real(self) -> str:
        """The float that everything rides in."""
        return "float64" if self.double else "float32"

    @property
    def levels(self) -> int:
        """How many levels the table of the state grid has; 0 without one."""
        return self.params.grid.count if isinstance(self.params.grid, TableGrid) else 0

    @property
    def soft(self) -> bool:
        """Whether gradients pass the state grid as through a sum of sigmoids."""
        return isinstance(self.params.grid, TableGrid) and self.params.grid.passes == "soft"

    @property
    def ranges(self) -> tuple[str, ...]:
        """Those of the tables that are learned ranges of the state grid: only their gradients are wanted."""
        return tuple(name for name in self.tables if name.startswith("range"))

    def check(
        self, x: Any, codes: Any, recurrent: Any, tables: Sequence[Any], grid: Sequence[Any], carried: Mapping[str, Any]
    ) -> None:
        """Raises BadInput unless each tensor has the shape, the float and the device that its kernels take for granted.

        See `engine.time_loop`. Kernels know no sizes but their own: what is smaller they would read beyond its end.
        """
        size = self.size
        expected: list[tuple[str, Any, tuple[int, ...] | None]] = [
            ("x", x, (x.shape[0], x.shape[1], size if self.given else self.inputs)),
            ("codes", codes, None if self.given else (size, self.inputs)),
            ("recurrent", recurrent, (size, size) if self.recurrent else None),
            *(
                (name, table, tuple(table.shape) if table.numel() == 1 else (size,))
                for name, table in zip(self.tables, tables, strict=True)
            ),
            *((name, carried[name], (x.shape[1], size)) for name, _ in self.states),
        ]
        if self.levels:
            shapes = ((self.levels - 1,), (self.levels,), (len(self.ranges), self.levels), ())
            names = ("borders", "levels", "rises", "sharpness")
            expected += list(zip(names, grid, shapes, strict=True))
        for name, tensor, shape in expected:
            wanted = None if shape is None else (shape, f"torch.{self.real}", x.device)
            found = None if tensor is None else (tuple(tensor.shape), str(tensor.dtype), tensor.device)
            if found != wanted:
                raise BadInput(f"{name}: expected {_worded(wanted)}, got {_worded(found)}")

    def kept(self, recorded: Recorded) -> dict[str, str]:
        """The states that backward needs beside the output, and the type that each is kept in."""
        return {name: narrowest(s, self.real) for name, s in self.states if recorded.after[name] != recorded.output}

    def record(self) -> Recorded:
        """The step, its products and tables being inputs."""
        ops = Recorder()
        named = {name: ops.input(name) for name in self.tables if name not in self.ranges}
        params = self.params.with_tables({name: named[name] for name in neurons.TABLES if name in named})
        state = {name: ops.state(name) for name, _ in self.states}
        feedback = ops.input("feedback") if self.recurrent else None
        wires = Wires(
            self.neuron, params, self.shifts, named.get("bias"), diagonal=named.get("diagonal"),
            matrix=None if feedback is None else lambda _: feedback,
        )  # fmt: skip
        output, after = layer_step(ops, wires, ops.input("product"), state)
        return Recorded(tuple(ops.ops), output, after, self.surrogate, self.ranges)


def _worded(tensor: tuple[tuple[int, ...], str, Any] | None) -> str:
    """(shape, dtype, device), or None where there is no tensor, in words."""
    return "none" if tensor is None else f"{tensor[0]} of {tensor[1].removeprefix('torch.')} on {tensor[2]}"


def narrowest(state: StateRange, real: str) -> str:
    """The narrowest of int8, uint8 and int16 that holds the state, else `real`."""
    for name, lo, hi in (("int8", -(2**7), 2**7 - 1), ("uint8", 0, 2**8 - 1), ("int16", -(2**15), 2**15 - 1)):
        if lo <= state.lo and state.hi <= hi:
            return name
    return real


@dataclass(frozen=True)
class Language:
    """How a kernel's language spells what the lines need; `element` is one neuron's value in a named array.

    encode: the code of a level by the array `borders`; slope: that of the sum of sigmoids at a level; decode: the entry
    of a named array at a code.
    """

    declare: str
    assign: str
    element: str
    state: str
    number: str
    where: str
    floor: str
    absolute: str
    exp: str
    encode: str
    slope: str
    decode: str


C = Language(
    declare="const real {} = {};", assign="{} {} {};", element="{}[i]", state="(real){}[i]", number="(real){!r}",
    where="({} ? {} : {})", floor="FLOOR({})", absolute="ABS({})", exp="exp_of({})",
    encode="code_of(borders, {})", slope="slope_at(borders, levels, sharpness, {})", decode="{}[(int32_t){}]",
)  # fmt: skip


@dataclass(frozen=True)
class Spelled:
    """A value of a kernel, as text that adds up."""

    text: str
    language: Language

    def _with(self, sign: str, a: "Spelled | float", b: "Spelled | float") -> "Spelled":
        def text(value: "Spelled | float") -> str:
            return value.text if isinstance(value, Spelled) else self.language.number.format(float(value))

        return Spelled(f"({text(a)} {sign} {text(b)})", self.language)

    def __add__(self, other: "Spelled | float") -> "Spelled":
        return self._with("+", self, other)

    def __radd__(self, other: float) -> "Spelled":
        return self._with("+", other, self)

    def __sub__(self, other: "Spelled | float") -> "Spelled":
        return self._with("-", self, other)

    def __mul__(self, other: "Spelled | float") -> "Spelled":
        return self._with("*", self, other)

    def __rmul__(self, other: float) -> "Spelled":
        return self._with("*", other, self)

    def __truediv__(self, other: "Spelled | float") -> "Spelled":
        return self._with("/", self, other)


class Spelling:
    """The maths of surrogates, spelled."""

    @staticmethod
    def exp(x: Spelled) -> Spelled:
        """See TorchMaths."""
        return Spelled(x.language.exp.format(x.text), x.language)

    @staticmethod
    def abs(x: Spelled) -> Spelled:
        """See TorchMaths."""
        return Spelled(x.language.absolute.format(x.text), x.language)

    @staticmethod
    def positive(x: Spelled, a: Spelled, b: Spelled) -> Spelled:
        """See TorchMaths."""
        chosen = x.language.where.format(f"{x.text} > {x.language.number.format(0.0)}", a.text, b.text)
        return Spelled(chosen, x.language)


def forward_lines(recorded: Recorded, language: Language) -> list[str]:
    """A line an op: v0, v1, … from in_product, in_feedback, the tables and the states old_NAME."""
    return [_forward_line(recorded, index, language) for index in range(len(recorded.ops))]


def _forward_line(recorded: Recorded, index: int, language: Language) -> str:
    op, number = recorded.ops[index], language.number.format
    match op:
        case ops.Input("product" | "feedback" as name):
            value = language.element.format(f"in_{name}")
        case ops.Input(name):
            value = language.element.format(name)
        case ops.State(name):
            value = language.state.format(f"old_{name}")
        case ops.Table(values):
            value = number(float(values[0]))
        case Encode(a):
            value = language.encode.format(f"v{a}")
        case Decode(a):
            value = language.decode.format("levels", f"v{a}")
        case Detach(a):
            value = f"v{a}"
        case ops.Add(a, b):
            value = f"v{a} + v{b}"
        case ops.Sub(a, b):
            value = f"v{a} - v{b}"
        case ops.Mul(a, b):
            value = f"v{a} * v{b}"
        case ops.Shr(a, shift):
            value = language.floor.format(f"v{a} * {number(0.5**shift)} + {number(0.5)}")
        case ops.Shl(a, shift):
            value = f"v{a} * {number(float(1 << shift))}"
        case ops.Clamp(a, lo, hi):
            value = f"v{a}"
            if hi < math.inf:
                value = language.where.format(f"v{a} > {number(float(hi))}", number(float(hi)), value)
            if lo > -math.inf:
                value = language.where.format(f"v{a} < {number(float(lo))}", number(float(lo)), value)
        case ops.Gt(a, b):
            value = language.where.format(f"v{a} > v{b}", number(1.0), number(0.0))
        case ops.Select(condition, a, b):
            value = language.where.format(f"v{condition} != 0", f"v{a}", f"v{b}")
        case _:
            raise BadInput(f"engine: {type(op).__name__}: the fused engine has no rule for it")
    return language.declare.format(f"v{index}", value)


def backward_lines(recorded: Recorded, language: Language) -> tuple[list[str], list[str]]:
    """(the adjoints that start at 0, the lines): seeds, then every op in reverse, then what is carried a step back.

    From grad_now and carry_NAME to to_product, to_feedback, grad_TABLE and carry_NAME.
    """
    element, assign, number = language.element.format, language.assign.format, language.number.format
    states = [op.name for op in recorded.ops if isinstance(op, ops.State)]
    reached = _reached(recorded)
    lines = [assign(f"a{recorded.output}", "+=", element("grad_now"))]
    lines += [assign(f"a{recorded.after[name]}", "+=", element(f"carry_{name}")) for name in states]
    for index in reversed(reached):
        lines += _adjoint_lines(recorded, index, language)
    for index, op in enumerate(recorded.ops):
        if isinstance(op, ops.State):
            lines.append(assign(element(f"carry_{op.name}"), "=", f"a{index}" if index in reached else number(0.0)))
    return [f"a{index}" for index in reached], lines


def _adjoint_lines(recorded: Recorded, index: int, language: Language) -> list[str]:
    """What op `index` passes on of its adjoint."""
    op, g, assign, number = recorded.ops[index], f"a{index}", language.assign.format, language.number.format
    element = language.element.format

    def add(value: int, text: str, sign: str = "+") -> str:
        return assign(f"a{value}", f"{sign}=", text)

    match op:
        case ops.Input("product" | "feedback" as name):
            return [assign(element(f"to_{name}"), "=", g)]
        case ops.Input(name):
            return [assign(element(f"grad_{name}"), "+=", g)]
        case Encode(a, "soft"):
            passed = language.declare.format(f"p{index}", f"{g} * {language.slope.format(f'v{a}')}")
            log_reach = element(f"grad_{recorded.ranges[-1]}")
            return [passed, add(a, f"p{index}"), assign(log_reach, "-=", f"p{index} * v{a}")]
        case Encode(a, "clip"):
            return [add(a, language.where.format(f"(v{a} >= lowest) & (v{a} <= highest)", g, number(0.0)))]
        case Encode(a):
            return [add(a, g)]
        case Decode(a):
            rises = [language.decode.format(f"rise_{name}", f"v{a}") for name in recorded.ranges]
            gradients = [element(f"grad_{name}") for name in recorded.ranges]
            return [
                add(a, g),
                *(assign(grad, "+=", f"{g} * {rise}") for grad, rise in zip(gradients, rises, strict=True)),
            ]
        case ops.Add(a, b):
            return [add(a, g), add(b, g)]
        case ops.Sub(a, b):
            return [add(a, g), add(b, g, "-")]
        case ops.Mul(a, b):
            return [add(a, f"{g} * v{b}"), add(b, f"{g} * v{a}")]
        case ops.Shr(a, shift):
            return [add(a, f"{g} * {number(0.5**shift)}")]
        case ops.Shl(a, shift):
            return [add(a, f"{g} * {number(float(1 << shift))}")]
        case ops.Clamp(a, lo, hi):
            inside = g
            if hi < math.inf:
                inside = language.where.format(f"v{a} <= {number(float(hi))}", inside, number(0.0))
            if lo > -math.inf:
                inside = language.where.format(f"v{a} >= {number(float(lo))}", inside, number(0.0))
            return [add(a, inside)]
        case ops.Gt(a, b):
            least, size = number(1.0), language.absolute.format(f"v{b}")
            d, w, seed = (Spelled(name, language) for name in (f"d{index}", f"w{index}", g))
            return [
                language.declare.format(d.text, f"v{a} - v{b}"),
                language.declare.format(w.text, language.where.format(f"{size} > {least}", size, least)),
                language.declare.format(f"g{index}", recorded.surrogate.passed(Spelling, seed, d, w).text),
                add(a, f"g{index}"),
                add(b, f"g{index}", "-"),
            ]
        case ops.Select(condition, a, b):
            chosen = f"v{condition} != 0"
            return [
                add(a, language.where.format(chosen, g, number(0.0))),
                add(b, language.where.format(chosen, number(0.0), g)),
            ]
        case _:
            return []


def _reached(recorded: Recorded) -> list[int]:
    """The values that a gradient reaches, in order: not what only decides a SELECT, nor what comes before a detach."""
    reached: set[int] = set()
    pending = [recorded.output, *recorded.after.values()]
    while pending:
        value = pending.pop()
        if value not in reached:
            reached.add(value)
            op = recorded.ops[value]
            match op:
                case Detach():
                    pass
                case ops.Select(_, a, b):
                    pending += [a, b]
                case _:
                    pending += ops.operands(op)  # type: ignore[arg-type]
    return sorted(reached)

"""The fused engine: a layer's whole time loop as compiled C, generated from the neuron's recorded step.

The forward is written from the recorded ops; the backward from a rule per op: straight through for SHR, a mask for
CLAMP and SELECT, a surrogate for GT, products for MUL. So a new neuron has its kernel without anyone writing one.
On integers the forward equals the torch forward bit for bit: sums below 2^24 (2^53) are exact in any order.

Work is cut into chunks of fixed size, whose sums are added in order: results do not depend on the number of threads.
"""

import ctypes
import functools
import hashlib
import math
import platform
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export import ir
from export.errors import BadInput
from export.executors.toolchain import CompileError, cache_folder, compile_host
from export.render import render
from qat import neurons
from qat.neurons import Neuron, Params, StateRange

SAMPLES_A_CHUNK = 8
PRODUCT_CHUNKS, GRADIENT_CHUNKS = 16, 4
DENSE_RATE = 0.15  # above this share of entries that are not 0, a dense product is faster
_FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")


class Recorder(ir.Builder):
    """Records a step for training. Where gradients end it records a left shift by 0, which otherwise never occurs."""

    def detach(self, a: int) -> int:
        """The same value, through which no gradient passes."""
        return self._record(ir.Shl(a, 0))


@dataclass(frozen=True)
class Recorded:
    """A layer's step: its ops, its output, and its states after."""

    ops: tuple[ir.Op, ...]
    output: int
    after: dict[str, int]


@dataclass(frozen=True)
class Plan:
    """All that a layer's kernel depends on: `params` without its tables, and the names of those that there are."""

    neuron: Neuron
    params: Params
    states: tuple[tuple[str, StateRange], ...]
    shifts: tuple[int, int]
    recurrent: bool
    tables: tuple[str, ...]
    size: int
    slope: float
    double: bool

    def record(self) -> Recorded:
        """The step, its products and tables being inputs."""
        ops = Recorder()
        named = {name: ops.input(name) for name in self.tables}
        params = replace(self.params, threshold=named.get("threshold"), decay=named["decay"])
        state = {name: ops.state(name) for name, _ in self.states}
        feedback = ops.input("feedback") if self.recurrent else None
        product, bias = ops.input("product"), named.get("bias")
        current = neurons.current(ops, product, self.shifts[0], feedback, self.shifts[1], bias)
        output, after = self.neuron.step(ops, current, state, params)
        return Recorded(tuple(ops.ops), output, after | ({"spike": output} if self.recurrent else {}))


def _forward_line(recorded: Recorded, index: int) -> str:
    op = recorded.ops[index]
    match op:
        case ir.Input("product" | "feedback" as name):
            value = f"in_{name}[i]"
        case ir.Input(name):
            value = f"{name}[i]"
        case ir.State(name):
            value = f"old_{name}[i]"
        case ir.Table(values):
            value = f"(real){float(values[0])!r}"
        case ir.Add(a, b):
            value = f"v{a} + v{b}"
        case ir.Sub(a, b):
            value = f"v{a} - v{b}"
        case ir.Mul(a, b):
            value = f"v{a} * v{b}"
        case ir.Shr(a, shift):
            value = f"FLOOR(v{a} * (real){0.5**shift!r} + (real)0.5)"
        case ir.Shl(a, shift):
            value = f"v{a} * (real){float(1 << shift)!r}" if shift else f"v{a}"
        case ir.Clamp(a, lo, hi):
            value = f"v{a}"
            if hi < math.inf:
                value = f"({value} > (real){float(hi)!r} ? (real){float(hi)!r} : {value})"
            if lo > -math.inf:
                value = f"(v{a} < (real){float(lo)!r} ? (real){float(lo)!r} : {value})"
        case ir.Gt(a, b):
            value = f"v{a} > v{b} ? (real)1 : (real)0"
        case ir.Select(condition, a, b):
            value = f"v{condition} != 0 ? v{a} : v{b}"
        case _:
            raise BadInput(f"engine: {ir.op_name(op)}: the fused engine has no rule for it")
    return f"const real v{index} = {value};"


def _adjoint_lines(recorded: Recorded, index: int) -> list[str]:
    """What op `index` passes on of its adjoint."""
    op, g = recorded.ops[index], f"a{index}"
    match op:
        case ir.Input("product" | "feedback" as name):
            return [f"to_{name}[i] = {g};"]
        case ir.Input(name):
            return [f"grad_{name}[i] += {g};"]
        case ir.Add(a, b):
            return [f"a{a} += {g};", f"a{b} += {g};"]
        case ir.Sub(a, b):
            return [f"a{a} += {g};", f"a{b} -= {g};"]
        case ir.Mul(a, b):
            return [f"a{a} += {g} * v{b};", f"a{b} += {g} * v{a};"]
        case ir.Shr(a, shift):
            return [f"a{a} += {g} * (real){0.5**shift!r};"]
        case ir.Shl(a, shift):
            return [f"a{a} += {g} * (real){float(1 << shift)!r};"] if shift else []
        case ir.Clamp(a, lo, hi):
            inside = [f"v{a} >= (real){float(lo)!r}"] * (lo > -math.inf) + [f"v{a} <= (real){float(hi)!r}"] * (
                hi < math.inf
            )
            return [f"a{a} += {' && '.join(inside)} ? {g} : 0;" if inside else f"a{a} += {g};"]
        case ir.Gt(a, b):
            width, slope = f"w{index}", f"s{index}"
            return [
                f"const real {width} = ABS(v{b}) > (real)1e-6 ? ABS(v{b}) : (real)1e-6;",
                f"const real {slope} = 1 + slope * ABS(v{a} - v{b}) / {width};",
                f"const real g{index} = {g} / ({width} * {slope} * {slope});",
                f"a{a} += g{index};",
                f"a{b} -= g{index};",
            ]
        case ir.Select(condition, a, b):
            return [f"a{a} += v{condition} != 0 ? {g} : 0;", f"a{b} += v{condition} != 0 ? 0 : {g};"]
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
            ends = isinstance(op, ir.Shl) and op.shift == 0
            pending += [] if ends else [op.a, op.b] if isinstance(op, ir.Select) else ir.operands(op)
    return sorted(reached)


def _backward(recorded: Recorded) -> tuple[list[str], list[str]]:
    """(the adjoints that are declared, the lines): seeds, then every op in reverse, then the carries."""
    states = [op.name for op in recorded.ops if isinstance(op, ir.State)]
    reached = _reached(recorded)
    lines = [f"a{recorded.output} += grad_now[i];"]
    lines += [f"a{recorded.after[name]} += carry_{name}[i];" for name in states]
    for index in reversed(reached):
        lines += _adjoint_lines(recorded, index)
    for index, op in enumerate(recorded.ops):
        if isinstance(op, ir.State):
            lines.append(f"carry_{op.name}[i] = {f'a{index}' if index in reached else 0};")
    return [f"a{index}" for index in reached], lines


class Kernel:
    """The compiled time loop of a plan, forward and backward."""

    def __init__(self, plan: Plan):
        self.plan = plan
        recorded = plan.record()
        adjoints, backward = _backward(recorded)
        source = render(
            "engine.c.j2",
            size=plan.size,
            slope=repr(plan.slope),
            recurrent=plan.recurrent,
            tables=plan.tables,
            states=[name for name, _ in plan.states],
            forward=[_forward_line(recorded, i) for i in range(len(recorded.ops))],
            next=[(name, f"v{recorded.after[name]}") for name, _ in plan.states],
            output=f"v{recorded.output}",
            adjoints=adjoints,
            backward=backward,
        )
        self.library = _compiled(source, plan.double)

    def event_product(self, x: Tensor, weights: Tensor) -> Tensor:
        """x (steps, batch, inputs) times weights (inputs, size), over the entries of x that are not 0."""
        steps, batch, inputs = x.shape
        product = x.new_empty(steps * batch, self.plan.size)
        parts = _ranges(steps * batch, -(-steps * batch // PRODUCT_CHUNKS))
        given, call = (inputs, batch, *x.stride()[:2]), self.library.event_product
        _each(lambda k: _call(call, *given, *parts[k], x, weights, product), len(parts))
        return product

    def event_gradient(self, x: Tensor, grad: Tensor) -> Tensor:
        """grad (steps · batch, size), transposed, times x (steps, batch, inputs), over the entries of x not 0."""
        steps, batch, inputs = x.shape
        parts = _ranges(steps * batch, -(-steps * batch // GRADIENT_CHUNKS))
        sums = x.new_zeros(len(parts), inputs, self.plan.size)
        given, call = (inputs, batch, *x.stride()[:2]), self.library.event_gradient
        _each(lambda k: _call(call, *given, *parts[k], x, grad, sums[k]), len(parts))
        return sums.sum(dim=0).t()


kernel_for = functools.cache(Kernel)


@functools.cache
def available() -> bool:
    """Whether a compiler is at hand. Where none is, says so once; the torch path then does the same, slower."""
    try:
        _compiled("int quantal_engine;", False)
    except (BadInput, CompileError, OSError) as error:
        print(f"quantal: training in torch, several times slower: {error}", file=sys.stderr)
        return False
    return True


@functools.cache
def _compiled(source: str, double: bool) -> ctypes.CDLL:
    flags = (*_FLAGS, *(["-DDOUBLE"] if double else []))
    name = hashlib.sha256("\0".join((source, *flags, _processor())).encode()).hexdigest()
    path = cache_folder("engine") / f"{name}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            text, made = Path(folder) / "kernel.c", Path(folder) / "kernel.so"
            text.write_text(source, encoding="utf-8")
            compile_host([text], made, flags=flags)
            made.replace(path)
    return ctypes.CDLL(str(path))


@functools.cache
def _processor() -> str:
    """What -march=native stands for here: a cache that moves to another processor must not serve this one's code."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.node() + platform.processor() + platform.machine()
    return platform.machine() + next((line for line in lines if line.startswith(("flags", "Features"))), "")


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def _each(work: Callable[[int], Any], count: int) -> None:
    """Runs work(0) … work(count − 1) on as many threads as torch uses; compiled code holds no lock."""
    threads = torch.get_num_threads()
    if threads == 1 or count == 1:
        for index in range(count):
            work(index)
    else:
        list(_pool(threads).map(work, range(count)))


def _ranges(count: int, size: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, count)) for start in range(0, count, size)]


def _pointers(tensors: Iterable[Tensor]) -> Any:
    addresses = [tensor.data_ptr() for tensor in tensors]
    return (ctypes.c_void_p * max(len(addresses), 1))(*addresses)


def _call(function: Any, *arguments: Any) -> None:
    converted = [
        ctypes.c_int64(a) if isinstance(a, int) else ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else a
        for a in arguments
    ]
    function(*converted)


def _is_sparse(x: Tensor) -> bool:
    """Whether events beat a dense product, judged by some of the steps."""
    some = x[:: max(1, len(x) // 8)]
    return int(torch.count_nonzero(some)) < DENSE_RATE * some.numel()


class _TimeLoop(torch.autograd.Function):
    """(steps, batch, inputs) → (steps, batch, size)."""

    @staticmethod
    def forward(
        ctx: Any, kernel: Kernel, x: Tensor, codes: Tensor, recurrent: Tensor | None, *tables: Tensor
    ) -> Tensor:
        plan, n = kernel.plan, kernel.plan.size
        steps, batch, inputs = x.shape
        x = x if x.stride(2) == 1 else x.contiguous()
        sparse = _is_sparse(x)
        product = kernel.event_product(x, codes.t().contiguous()) if sparse else x.reshape(-1, inputs) @ codes.t()
        states = [x.new_empty(steps + 1, batch, n) for _ in plan.states]
        for state, (_, about) in zip(states, plan.states, strict=True):
            state[0] = about.init
        feedback = torch.empty_like(product) if plan.recurrent else product
        out = x.new_empty(steps, batch, n)
        expanded = [table.expand(n).contiguous() for table in tables]
        from_to = codes if recurrent is None else recurrent.t().contiguous()
        constants, places, chunks = _pointers(expanded), _pointers(states), _ranges(batch, SAMPLES_A_CHUNK)
        fused = kernel.library.forward
        _each(
            lambda k: _call(fused, steps, batch, *chunks[k], product, from_to, constants, places, feedback, out),
            len(chunks),
        )
        ctx.kernel, ctx.sparse, ctx.table_shapes = kernel, sparse, [table.shape for table in tables]
        ctx.save_for_backward(x, codes, recurrent, product, feedback, *expanded, *states)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        kernel: Kernel = ctx.kernel
        plan = kernel.plan
        x, codes, recurrent, product, feedback, *rest = ctx.saved_tensors
        tables, states = rest[: len(plan.tables)], rest[len(plan.tables) :]
        grad_out = grads[0].contiguous()
        steps, batch, n = grad_out.shape
        grad_product = torch.empty_like(product)
        grad_feedback = torch.empty_like(product) if plan.recurrent else grad_product
        chunks = _ranges(batch, SAMPLES_A_CHUNK)
        grad_tables = product.new_zeros(len(chunks), len(tables), n)
        carry = product.new_empty(len(chunks), SAMPLES_A_CHUNK, len(states), n)
        to_from = recurrent.contiguous() if plan.recurrent else codes
        constants, places, fused = _pointers(tables), _pointers(states), kernel.library.backward
        given = (product, to_from, constants, places, feedback, grad_out, grad_product, grad_feedback)
        _each(lambda k: _call(fused, steps, batch, *chunks[k], *given, grad_tables[k], carry[k]), len(chunks))
        grad_codes = (
            kernel.event_gradient(x, grad_product) if ctx.sparse else grad_product.t() @ x.reshape(steps * batch, -1)
        )
        grad_recurrent = None
        if plan.recurrent:
            spikes = states[[name for name, _ in plan.states].index("spike")][:-1]
            grad_recurrent = (
                kernel.event_gradient(spikes, grad_feedback)
                if _is_sparse(spikes)
                else grad_feedback.t() @ spikes.reshape(-1, n)
            )
        grad_x = (grad_product @ codes).reshape(steps, batch, -1) if ctx.needs_input_grad[1] else None
        summed = grad_tables.sum(dim=0)
        grad_each = [summed[k].sum_to_size(shape) for k, shape in enumerate(ctx.table_shapes)]
        return None, grad_x, grad_codes, grad_recurrent, *grad_each


def time_loop(plan: Plan, x: Tensor, codes: Tensor, recurrent: Tensor | None, tables: list[Tensor]) -> Tensor:
    """The layer's output (steps, batch, size) on x (steps, batch, inputs), with gradients for everything given."""
    out: Tensor = _TimeLoop.apply(kernel_for(plan), x, codes, recurrent, *tables)  # type: ignore[no-untyped-call]
    return out

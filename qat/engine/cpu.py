"""The fused engine: a layer's whole time loop as compiled C, generated from the neuron's recorded step.

On integers the forward equals the torch forward bit for bit: sums below 2^24 (2^53) are exact in any order. Between
forward and backward it keeps the output, and each state that is not the output as the narrowest integer that holds it.

Samples are independent, so groups of them run on as many threads as there are; a group's size depends on the batch
alone and gradients are added in the groups' order: results do not depend on the number of threads.
"""

import ctypes
import functools
import hashlib
import platform
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from quantal.export.base import portable, toolchain
from quantal.export.base.errors import BadInput
from quantal.export.base.files import scratch
from quantal.export.base.render import render
from quantal.export.base.toolchain import CompileError, cache_folder, compile_host
from quantal.qat.engine.adjoint import C, Plan, Recorded, backward_lines, forward_lines

LANES = 16  # rows of the kernels' arrays are padded to whole vectors
GROUP_SAMPLES, GROUPS = 8, 8  # at least so many samples a group, unless that makes more groups than these
DENSE_RATE = 0.5  # above this share of entries that are not 0 a dense product is faster: benchmarks/crossover.py
_FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-shared", "-fPIC")
_POINTERS = (
    "out", "weights_back", "recurrent_back", "grad_out", "grad_x", "grad_weights", "grad_recurrent", "grad_tables",
)  # fmt: skip
_GRID = ("borders", "levels", "rises", "sharpness")
_threads = 0


def set_threads(count: int) -> None:
    """How many threads the engine uses; at first as many as this process may use processors.

    With more than one, let torch have one (torch.set_num_threads): its threads spin for a while after they have worked.
    """
    global _threads
    _threads = count


def threads() -> int:
    """How many threads the engine uses."""
    return _threads or portable.processors()


class Kernel:
    """The compiled time loop of a plan, forward and backward."""

    def __init__(self, plan: Plan):
        self.plan = plan
        recorded = plan.record()
        self.dtype: torch.dtype = getattr(torch, plan.real)
        kept = plan.kept(recorded)
        self.kept = [getattr(torch, kept[name]) if name in kept else None for name, _ in plan.states]
        self.library = _compiled(self._source(recorded, kept), plan.double)
        self.library.scratch_bytes.restype = ctypes.c_int64
        self._own = threading.local()

        class Job(ctypes.Structure):
            """struct job."""

            _fields_ = (
                *(
                    (name, ctypes.c_int64)
                    for name in ("steps", "batch", "group_samples", "step_stride", "sample_stride")
                ),
                *((name, ctypes.c_void_p) for name in ("x", "weights", "recurrent", "tables", *_GRID)),
                ("states", ctypes.c_void_p * len(plan.states)),
                *((name, ctypes.c_void_p) for name in _POINTERS),
            )

        self.job_type = Job

    def _source(self, recorded: Recorded, kept: dict[str, str]) -> str:
        plan = self.plan
        adjoints, backward = backward_lines(recorded, C)
        states = [
            {
                "name": name,
                "type": f"{kept[name]}_t" if "int" in kept.get(name, "") else "real",
                "kept": name in kept,
                "after": f"v{recorded.after[name]}",
            }
            for name, _ in plan.states
        ]
        return render(
            "engine/cpu.c.j2",
            sizes={
                "INPUTS": plan.inputs,
                "SIZE": plan.size,
                "STATES": len(plan.states),
                "TABLES": len(plan.tables),
                "LEVELS": plan.levels,
                "RECURRENT": int(plan.recurrent),
                "SPIKE": [name for name, _ in plan.states].index("spike") if plan.recurrent else 0,
                "GIVEN": int(plan.given),
                "TRUNCATE": plan.truncate,
                "DENSE_RATE": DENSE_RATE,
            },
            tables=plan.tables,
            levels=plan.levels,
            ranges=plan.ranges,
            states=states,
            forward=forward_lines(recorded, C),
            output=f"v{recorded.output}",
            adjoints=adjoints,
            backward=backward,
        )

    def run(self, function: str, job: ctypes.Structure, groups: int) -> None:
        """forward or backward for all groups."""
        call, given = getattr(self.library, function), ctypes.byref(job)
        _each(lambda group: call(given, ctypes.c_int64(group), ctypes.c_void_p(self._scratch())), groups)

    def _scratch(self) -> int:
        if not hasattr(self._own, "scratch"):
            self._own.scratch = torch.zeros(self.library.scratch_bytes(), dtype=torch.uint8, device="cpu")
        address: int = self._own.scratch.data_ptr()
        return address

    def collected(self, grads: Tensor) -> Tensor:
        """(groups, inputs, size padded) → their sum (size, inputs)."""
        groups, width, _ = map(ctypes.c_int64, grads.shape)
        total = grads.new_empty(self.plan.size, grads.shape[1])
        given = ctypes.c_void_p(grads.data_ptr()), ctypes.c_void_p(total.data_ptr())
        parts = threads()
        _each(
            lambda part: self.library.collect(groups, width, ctypes.c_int64(part), ctypes.c_int64(parts), *given), parts
        )
        return total

    def buffer(self, name: str, *shape: int) -> Tensor:
        """This thread's own memory of that shape, whatever it holds: asking the system for it anew costs more."""
        held: Tensor | None = self._own.__dict__.get(name)
        if held is None or held.shape != shape:
            held = torch.empty(shape, dtype=self.dtype, device="cpu")
            setattr(self._own, name, held)
        return held


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


def whole(x: Tensor, most: int) -> bool:
    """Whether x (samples, steps, inputs) holds integers 0 … most alone: one pass, where torch would take three."""
    if x.stride(2) != 1 or x.stride(1) != x.shape[2]:  # a sample's steps lie one after the other
        x = x.contiguous()
    check = _compiled(render("engine/whole.c"), x.dtype == torch.float64).whole
    count, width, stride = len(x), x.shape[1] * x.shape[2], x.stride(0)
    size = max(GROUP_SAMPLES, -(-count // GROUPS))
    right: list[bool] = []

    def look(group: int) -> None:
        rows = x[group * size : (group + 1) * size]
        sizes = map(ctypes.c_int64, (len(rows), width, stride))
        right.append(bool(check(ctypes.c_void_p(rows.data_ptr()), *sizes, ctypes.c_double(most))))

    _each(look, -(-count // size))
    return all(right)


@functools.cache
def _compiled(source: str, double: bool) -> ctypes.CDLL:
    flags = (*_FLAGS, f"-march={toolchain.target()}", *(["-DDOUBLE"] if double else []))
    made_of = (source, *toolchain.host_compiler(), *flags, _processor())
    name = hashlib.sha256("\0".join(made_of).encode()).hexdigest()
    path = cache_folder("engine") / f"{name}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            text, made = Path(folder) / "kernel.c", Path(folder) / "kernel.so"
            scratch(text, source)
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
def _pool(size: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(size)


def _each(work: Callable[[int], Any], count: int) -> None:
    """Runs work(0) … work(count − 1), this thread among those that do; compiled code holds no lock.

    Returns, or raises, only when no thread works any more: what they write to is freed then.
    """
    left = iter(range(count))
    errors: list[BaseException] = []
    changed = threading.Condition()
    helping, over, failed = 0, False, False

    def take() -> None:
        for index in left:
            if failed:
                return
            work(index)

    def help_out() -> None:
        nonlocal helping, failed
        with changed:
            if over:
                return
            helping += 1
        try:
            take()
        except BaseException as error:
            errors.append(error)
            failed = True
        finally:
            with changed:
                helping -= 1
                changed.notify_all()

    def end() -> None:
        nonlocal over
        with changed:
            over = True
            changed.wait_for(lambda: helping == 0)

    helpers = min(threads(), count) - 1
    try:
        for _ in range(helpers):
            _pool(helpers).submit(help_out)
        take()
    except BaseException:
        failed = True
        raise
    finally:
        _uninterrupted(end)
    if errors:
        raise errors[0]


def _uninterrupted(wait: Callable[[], None]) -> None:
    """Waits to the end, however often Ctrl-C is pressed meanwhile, and raises it then."""
    interrupt: KeyboardInterrupt | None = None
    while True:
        try:
            wait()
            break
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


def _groups(job: Any) -> int:
    groups: int = max(1, -(-job.batch // job.group_samples))
    return groups


def _padded(matrix: Tensor) -> Tensor:
    """Rows padded with zeros to whole vectors, one after the other."""
    return functional.pad(matrix, (0, -matrix.shape[1] % LANES)).contiguous()


class _TimeLoop(torch.autograd.Function):
    """(steps, batch, inputs) → (steps, batch, size)."""

    @staticmethod
    def forward(
        ctx: Any,
        kernel: Kernel,
        x: Tensor,
        codes: Tensor | None,
        recurrent: Tensor | None,
        grid: list[Tensor],
        carried: dict[str, Tensor],
        *tables: Tensor,
    ) -> Tensor:
        n = kernel.plan.size
        steps, batch, _ = x.shape
        x = x if x.stride(2) == 1 else x.contiguous()
        weights = x if codes is None else _padded(codes.t())
        back = weights if recurrent is None else _padded(recurrent.t())
        constants = torch.stack([table.expand(n) for table in tables]) if tables else x.new_empty(0, n)
        shown = x.new_empty(1 + steps, batch, n)
        out = shown[1:]
        states = [shown if kept is None else torch.empty_like(shown, dtype=kept) for kept in kernel.kept]
        for (name, _), held in zip(kernel.plan.states, states, strict=True):
            held[0] = carried[name]
        size = max(GROUP_SAMPLES, -(-batch // GROUPS))
        job = kernel.job_type(
            steps, batch, size, x.stride(0), x.stride(1), x.data_ptr(), weights.data_ptr(), back.data_ptr(),
            constants.data_ptr(), *(table.data_ptr() for table in grid or [constants] * len(_GRID)),
            tuple(state.data_ptr() for state in states), out.data_ptr(),
        )  # fmt: skip
        kernel.run("forward", job, _groups(job))
        for (name, _), held in zip(kernel.plan.states, states, strict=True):
            carried[name] = held[-1].to(x.dtype, copy=True)
        ctx.kernel, ctx.job, ctx.table_shapes, ctx.grid = kernel, job, [table.shape for table in tables], grid
        ctx.save_for_backward(x, codes, recurrent, weights, back, constants, out, *(held[1:] for held in states))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        kernel, job = ctx.kernel, ctx.job
        plan = kernel.plan
        x, codes, recurrent, *_ = ctx.saved_tensors
        grad_out = grads[0].contiguous()
        groups = _groups(job)
        padded = -(-plan.size // LANES) * LANES
        grad_weights = None if codes is None else kernel.buffer("grad_weights", groups, plan.inputs, padded)
        grad_recurrent = kernel.buffer("grad_recurrent", groups, plan.size, padded) if plan.recurrent else None
        grad_tables = kernel.buffer("grad_tables", groups, len(plan.tables), plan.size)
        grad_x = x.new_empty(x.shape) if ctx.needs_input_grad[1] else None
        weights_back = None if grad_x is None or codes is None else _padded(codes)
        recurrent_back = None if recurrent is None else _padded(recurrent)
        given = (weights_back, recurrent_back, grad_out, grad_x, grad_weights, grad_recurrent, grad_tables)
        for name, tensor in zip(_POINTERS[1:], given, strict=True):
            setattr(job, name, None if tensor is None else tensor.data_ptr())
        kernel.run("backward", job, groups)
        summed = grad_tables.sum(dim=0)
        return (
            None,
            grad_x,
            None if grad_weights is None else kernel.collected(grad_weights),
            None if grad_recurrent is None else kernel.collected(grad_recurrent),
            None,
            None,
            *(summed[k].sum_to_size(shape) for k, shape in enumerate(ctx.table_shapes)),
        )


def time_loop(
    plan: Plan, x: Tensor, codes: Tensor | None, recurrent: Tensor | None, tables: list[Tensor], grid: list[Tensor],
    carried: dict[str, Tensor],
) -> Tensor:  # fmt: skip
    """The layer's output (steps, batch, size) on x (steps, batch, inputs), with gradients for what requires them.

    Without codes, x (steps, batch, size) is what the products are (Plan.given).
    `grid`: what the state grid is made of (Integers.grid_tables), or nothing where it has no table. `carried`: the
    plan's states (batch, size) before the first step; takes those after the last, through which no gradient passes.
    Raises BadInput where one of them has another size.
    """
    plan.check(x, codes, recurrent, tables, grid, carried)
    given = (kernel_for(plan), x, codes, recurrent, grid, carried, *tables)
    out: Tensor = _TimeLoop.apply(*given)  # type: ignore[no-untyped-call]
    return out

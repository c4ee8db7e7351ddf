"""The fused engine on CUDA: a layer's whole time loop as one Triton kernel forward and one backward.

Both are generated from the neuron's recorded step, as the compiled C of `engine` is. The input's product for all steps,
and the gradients of weights and input, are single matrix products outside them. On integers the forward equals the
torch forward bit for bit; gradients are added in a fixed order, so every run has the same bits.

Between forward and backward it keeps out and the products of input and of spikes as reals, and each state as the
narrowest integer that holds it: in float32 13 or 14 bytes a neuron, sample and step, 9 or 10 without recurrence.

A program holds all neurons of a recurrent layer, whose weights it reads once: they must fit in a multiprocessor's
shared memory. Those known to be codes are bfloat16, in which they are exact; then 256 neurons fit where there are
152 KB of it (A100, H100), and 128 anywhere; with real weights, 128. See `fits`.
"""

import functools
import hashlib
import importlib
import importlib.util
import os
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from quantal.export.base.files import scratch
from quantal.export.base.render import render
from quantal.export.base.toolchain import cache_folder
from quantal.qat.arithmetic.exact import exact_products
from quantal.qat.engine.adjoint import Language, Plan, backward_lines, forward_lines

SAMPLES = 16  # a program's in a recurrent layer: the fewest rows that tensor cores multiply
CELLS = 512  # samples times neurons of a program in another
NEURONS = 64  # at most of them, there
_FEW_LEVELS = 16  # up to so many their borders stay in registers, each compared with; above, a search reads them
_MOST_REGISTERS, _ALL_REGISTERS = 255, 65536  # a thread's, and those of all threads of a program
_INTERPRETED_CHIP = 227 * 1024  # shared memory, bytes: there is no chip, so take the largest


def _triton() -> ModuleType:
    return importlib.import_module("triton")


def _interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on tensors of the CPU: TRITON_INTERPRET=1."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def available() -> bool:
    """Whether Triton's kernels run here. Where not, says so once; the torch path then does the same, slower."""
    try:
        _triton()
        if _interpreted():
            return True
        if torch.version.cuda and torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0):
            return True
        reason = "no CUDA device of capability 8.0"
    except ImportError as error:
        reason = str(error)
    print(f"quantal: training on CUDA in torch, several times slower: {reason}", file=sys.stderr)
    return False


@functools.cache
def fits(plan: Plan, device: torch.device) -> bool:
    """Whether the layer's recurrence runs here. Where not, says so once a layer; it then trains in torch, slower."""
    need, limit = shared_bytes(plan, 1), _chip_bytes(device)
    if plan.recurrent and plan.double and not _interpreted():
        reason = "Triton compiles no products of float64"
    elif need > limit:
        reason = f"their weights take {need} bytes of a multiprocessor's shared memory, which has {limit}"
    else:
        return True
    print(f"quantal: {plan.size} recurrent neurons train in torch, several times slower: {reason}", file=sys.stderr)
    return False


def _chip_bytes(device: torch.device) -> int:
    """The shared memory that one program may use."""
    if device.type != "cuda":
        return _INTERPRETED_CHIP
    index = torch.cuda.current_device() if device.index is None else device.index
    return int(_triton().runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"])


def _whole(plan: Plan) -> bool:
    """Whether recurrent weights are kept as bfloat16."""
    return plan.recurrent and plan.whole_codes and not plan.double


def _padded(plan: Plan) -> int:
    return max(32, 1 << (plan.size - 1).bit_length())


def shared_bytes(plan: Plan, stages: int) -> int:
    """At most what a program of a recurrent layer takes, backward, which takes more: 0 without recurrence.

    Weights, the block that they multiply, and with 2 stages what is read for the next step; Triton 3.7 and 3.9
    stay within this.
    """
    if not plan.recurrent:
        return 0
    real = 8 if plan.double else 4
    weight, block = (2, 3 * 2) if _whole(plan) else (real, 2 * real)
    states = sum(getattr(torch, dtype).itemsize for dtype in plan.kept(plan.record()).values())
    ahead = 3 * real + states + real if stages > 1 else 0
    return _padded(plan) * (weight * _padded(plan) + SAMPLES * (block + ahead))


class Kernel:
    """The time loop of a plan in Triton, forward and backward, that reads `stages` − 1 steps ahead."""

    def __init__(self, plan: Plan, stages: int):
        self.plan = plan
        self.dtype: torch.dtype = getattr(torch, plan.real)
        whole, padded = _whole(plan), _padded(plan)
        self.neurons = padded if plan.recurrent else min(padded, NEURONS)
        self.samples = SAMPLES if plan.recurrent else CELLS // self.neurons
        # Every warp reads the whole block that the weights multiply, so on tensor cores few of them are faster.
        self.warps = max(4, self.neurons // (32 if whole else 16))
        # The interpreter multiplies no bfloat16: it gets the same numbers as float32.
        narrow = torch.float32 if _interpreted() else torch.bfloat16
        self.weights = narrow if whole else self.dtype
        recorded = plan.record()
        kept = plan.kept(recorded)
        self.kept = [getattr(torch, kept[name]) if name in kept else None for name, _ in plan.states]
        real = _name(self.dtype)
        few = 0 < plan.levels <= _FEW_LEVELS
        language = _language(real, f"({self.samples}, {self.neurons})", plan.levels if few else 0)
        adjoints, backward = _first_assigned(*backward_lines(recorded, language))
        states = [
            {
                "name": name,
                "type": f"tl.{kept.get(name, plan.real)}",
                "kept": name in kept,
                "after": f"v{recorded.after[name]}",
            }
            for name, _ in plan.states
        ]
        self.functions = _imported(
            render(
                "engine/cuda.py.j2",
                size=plan.size,
                samples=self.samples,
                neurons=self.neurons,
                stages=stages,
                real=real,
                narrow=_name(narrow),
                recurrent=plan.recurrent,
                whole=whole,
                tables=plan.tables,
                levels=plan.levels,
                few=few,
                ranges=plan.ranges,
                soft=plan.soft,
                states=states,
                forward=forward_lines(recorded, language),
                output=f"v{recorded.output}",
                truncate=plan.truncate,
                adjoints=adjoints,
                backward=backward,
            )
        )

    def blocks(self, batch: int) -> tuple[int, int]:
        """Programs over samples and over neurons."""
        return max(1, -(-batch // self.samples)), -(-self.plan.size // self.neurons)

    def run(self, function: str, x: Tensor, *given: Tensor | None, **constants: bool) -> None:
        """forward or backward for all samples, on the device and for the steps of x (steps, batch, ·)."""
        steps, batch = x.shape[:2]
        arguments = [value for value in given if value is not None]
        # Left to itself, ptxas may spill at half the registers that there are.
        registers = min(_MOST_REGISTERS, _ALL_REGISTERS // (32 * self.warps))
        with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
            launch = getattr(self.functions, function)[self.blocks(batch)]
            launch(
                *arguments, steps, batch, **constants, num_warps=self.warps, maxnreg=registers, enable_fp_fusion=False
            )


kernel_for = functools.cache(Kernel)


def _name(dtype: torch.dtype) -> str:
    return f"tl.{str(dtype).removeprefix('torch.')}"


def _language(real: str, shape: str, few_levels: int) -> Language:
    """Triton, on blocks of that type and shape; a table's block has one row. `few_levels`: 0 where there are many."""
    borders = ", ".join(f"border_{k}" for k in range(few_levels - 1)) or "borders"
    return Language(
        declare="{} = {}", assign="{} {} {}", element="{}", state=f"{{}}.to({real})",
        number=f"tl.full({shape}, {{!r}}, {real})", where="tl.where({}, {}, {})", floor="tl.floor({})",
        absolute="tl.abs({})", exp="tl.exp(tl.maximum({}, -20.0))", encode=f"code_of({{}}, {borders})",
        decode="entry({}, {})",
        slope="slope_at({}, borders_at, levels_at, sharpness_at, steps)",
    )  # fmt: skip


def _first_assigned(adjoints: list[str], lines: list[str]) -> tuple[list[str], list[str]]:
    """The first that is added to an adjoint is what it starts at: Triton would keep an addition to 0."""
    left, assigned = set(adjoints), []
    for line in lines:
        name, sign, value = line.split(" ", 2)
        if name in left:
            left.remove(name)
            line = f"{name} = {value}" if sign == "+=" else f"{name} = -({value})"
        assigned.append(line)
    return sorted(left), assigned


def _imported(source: str) -> ModuleType:
    """The module of that source, from a file: Triton reads its kernels' source there."""
    name = hashlib.sha256(source.encode()).hexdigest()
    path = cache_folder("engine_cuda") / f"{name}.py"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / "kernel.py"
            scratch(made, source)
            made.replace(path)
    spec = importlib.util.spec_from_file_location(f"quantal_{name}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _TimeLoop(torch.autograd.Function):
    """(steps, batch, inputs) → (steps, batch, size)."""

    @staticmethod
    def forward(
        ctx: Any,
        kernel: Kernel,
        keep: bool,
        x: Tensor,
        codes: Tensor | None,
        recurrent: Tensor | None,
        grid: list[Tensor],
        carried: dict[str, Tensor],
        *tables: Tensor,
    ) -> Tensor:
        x = x.contiguous()
        product = x if codes is None else x @ codes.t()
        n = kernel.plan.size
        constants = torch.stack([table.expand(n) for table in tables]) if tables else product.new_empty(0, n)
        steps, batch, _ = product.shape
        out = product.new_empty(1 + steps, batch, n)
        kept_steps = steps if keep else 0
        held = [out if dtype is None else out.new_empty(1 + kept_steps, batch, n, dtype=dtype) for dtype in kernel.kept]
        for (name, _), rows in zip(kernel.plan.states, held, strict=True):
            rows[0] = carried[name]
        states = [rows for rows in held if rows is not out]
        weights = None if recurrent is None else recurrent.to(kernel.weights).contiguous()
        feedback = None if recurrent is None else out.new_empty(kept_steps, batch, n)
        kernel.run("forward", x, product, constants, *grid, out, *states, weights, feedback, KEEP=keep)
        for (name, _), rows in zip(kernel.plan.states, held, strict=True):
            carried[name] = rows[-1].to(x.dtype, copy=True)
        ctx.kernel, ctx.table_shapes, ctx.grid = kernel, [table.shape for table in tables], grid
        if keep:
            ctx.save_for_backward(x, codes, weights, feedback, product, constants, out, *states)
        return out[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        kernel: Kernel = ctx.kernel
        plan = kernel.plan
        x, codes, weights, feedback, product, constants, out, *states = ctx.saved_tensors
        to_product = torch.empty_like(product)
        to_feedback = None if feedback is None else torch.empty_like(product)
        grad_tables = product.new_empty(kernel.blocks(x.shape[1])[0], len(plan.tables), plan.size)
        kernel.run(
            "backward", x, product, constants, *ctx.grid, out, *states, weights, feedback, to_feedback,
            grads[0].contiguous(), to_product, grad_tables,
        )  # fmt: skip
        grad_recurrent = None
        with exact_products(x.device):
            grad_x: Tensor | None = to_product
            grad_codes: Tensor | None = None
            if codes is not None:
                grad_x = to_product @ codes if ctx.needs_input_grad[2] else None
                grad_codes = to_product.flatten(0, 1).t() @ x.flatten(0, 1)
            if to_feedback is not None:  # each step sees the spikes of the step before
                grad_recurrent = to_feedback.flatten(0, 1).t() @ out[:-1].flatten(0, 1)
        summed = grad_tables.sum(dim=0)
        return (
            None,
            None,
            grad_x,
            grad_codes,
            grad_recurrent,
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
    # Without recurrence a step is so short that one is not enough to read the next meanwhile.
    stages = 4 if not plan.recurrent else 2 if shared_bytes(plan, 2) <= _chip_bytes(x.device) else 1
    inputs = (x, *(part for part in (codes, recurrent) if part is not None), *tables)
    keep = torch.is_grad_enabled() and any(value.requires_grad for value in inputs)
    given = (kernel_for(plan, stages), keep, x, codes, recurrent, grid, carried, *tables)
    out: Tensor = _TimeLoop.apply(*given)  # type: ignore[no-untyped-call]
    return out

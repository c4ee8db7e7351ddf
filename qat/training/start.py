"""A new run: what it begins with, from nothing or from another run, before any epoch."""

from dataclasses import dataclass
from pathlib import Path

import torch

from quantal.export.base.errors import BadInput
from quantal.qat.config.parts.layers import Reservoir
from quantal.qat.config.parts.network import Config
from quantal.qat.config.parts.training import Bptt, Ridge
from quantal.qat.data.registry import Dataset, Split
from quantal.qat.network.reservoir import control_rates
from quantal.qat.training import parallel, ridge
from quantal.qat.training.batches import EVALUATION_BATCH, batches_of, calibration_sample
from quantal.qat.training.bit_widths import allocate
from quantal.qat.training.run import Run
from quantal.qat.training.warm_start import warm_start


@dataclass(frozen=True)
class Start:
    """What a run begins with: the parameters of another, and how scales and ranges are found (see warm_start.py)."""

    source: Run
    calibration: str


def new_run(path: Path, config: Config, data: Dataset, start: Start | None = None, teacher: Run | None = None) -> Run:
    """A new run in a folder that must not exist yet, or must be empty; from another's parameters with `start`."""
    run = Run(path, config, data.train.x.shape[-1], data.maximum)
    run.check(data)
    for flag, other in (("--from", start), ("--teacher", teacher)):
        if other is not None and isinstance(config.training, Ridge):
            raise BadInput(f"{flag}: has no effect on ridge, which learns all that it learns from labels, at once")
    if config.training.loss == "regression":
        run.network.choose_targets(data.train.y)
    _take_teacher(run, teacher)
    norms = {layer.norm for layer in config.layers} - {"none"}
    if parallel.size() > 1 and norms:
        raise BadInput(f"norm: {min(norms)} takes its moments of the whole batch, so it trains in one process")
    if start is not None or norms:
        x, _ = run.tensors(calibration_sample(data.train), torch.float32)
        if start is None:
            run.network.begin_norms(x)
        else:
            start.source.check(data)
            warm_start(run.network, start.source.network, x, start.calibration, config.training.epochs == 0)
        run.begin_optimizer()
    if config.training.budget:  # before there are gradients, by the weights' errors alone
        matrices = [matrix for layer in run.network.stack for matrix in layer.matrices]
        allocate(run.network, {matrix: torch.ones_like(matrix) for matrix in matrices}, config.training.budget)
    _prepare(run, data.train)
    run.write_new(data)
    return run


def _take_teacher(run: Run, teacher: Run | None) -> None:
    """Raises BadInput unless it sees the same samples and says the same classes."""
    config = run.config
    if teacher is not None:
        if config.training.loss != "last":
            raise BadInput(f"--teacher: says a class a sample, which loss = {config.training.loss!r} does not learn")
        for name, mine, other in (
            ("encoder", config.encoder, teacher.config.encoder),
            ("inputs", run.network.inputs, teacher.network.inputs),
            ("loss", config.training.loss, teacher.config.training.loss),
            ("classes", config.layers[-1].size, teacher.config.layers[-1].size),
        ):
            if mine != other:
                raise BadInput(f"--teacher: {name}: expected {mine}, as the network's own, got {other}")
    for field in ("teacher_share", "teacher_temperature"):
        if teacher is None and getattr(config.training, field, None) not in (None, getattr(Bptt(), field)):
            raise BadInput(f"training: {field}: has no effect without --teacher")
    run.teacher = teacher


def _prepare(run: Run, split: Split) -> None:
    """Sets the rates of reservoirs, and learns by ridge regression where that is the method: before any epoch."""
    reservoirs = [layer for layer in run.network.stack if isinstance(layer.config, Reservoir)]
    if reservoirs:
        x, _ = run.tensors(calibration_sample(split), torch.float64)
        control_rates(reservoirs, x, run.network.ops)
    if isinstance(run.config.training, Ridge):
        dtype = run.exact_dtype()
        ridge.fit(
            run.network,
            lambda: (run.tensors(part, dtype) for part in batches_of(split, EVALUATION_BATCH)),
            run.config.training.ridge,
        )

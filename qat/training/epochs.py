"""Epochs of a run: gradients, steps of Adam, and a checkpoint after each."""

import json
import math
import os

import numpy as np
import torch
from rich.progress import Progress

from quantal.export.base import files, reading
from quantal.export.base.errors import BadInput
from quantal.qat.config.parts.training import Gradients, Ridge
from quantal.qat.data import augmentation
from quantal.qat.data.registry import Dataset, Split
from quantal.qat.training import objectives, parallel
from quantal.qat.training.bit_widths import allocate
from quantal.qat.training.checkpoint import CHECKPOINT_FILE
from quantal.qat.training.gradients import BatchLoss
from quantal.qat.training.run import METRICS_FILE, Run

SETTLED_AFTER = 3  # of the epochs one in so many goes before learned widths are settled


def train_until(run: Run, data: Dataset, epochs: int, progress: Progress) -> None:
    """Trains until `epochs` epochs are done in all. Any split of the epochs over sittings gives the same result."""
    if isinstance(run.config.training, Ridge):
        if not epochs:
            return
        raise BadInput(f"{run.path}: epochs: ridge takes none, expected 0, got {epochs}")
    with run.alone(run.path):
        if parallel.rank() == 0:
            _drop_lines(run)
        _train(run, data, epochs, progress)


def _train(run: Run, data: Dataset, epochs: int, progress: Progress) -> None:
    training = run.config.training
    assert isinstance(training, Gradients)
    batches = -(-len(data.train.y) // training.batch)
    bar = progress.add_task(f"training {run.path.name}", total=epochs * batches, completed=run.epochs_done * batches)
    while run.epochs_done < epochs:
        rate = training.rate * 0.5 ** (run.epochs_done / training.halving)
        for group in run.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        if training.budget and run.epochs_done == max(1, training.epochs // SETTLED_AFTER):
            squares = {parameter: state["exp_avg_sq"] for parameter, state in run.optimizer.state.items()}
            allocate(run.network, squares, training.budget)
        dtype = run.exact_dtype()
        order = np.random.default_rng([training.seed, run.epochs_done]).permutation(len(data.train.y))
        split = augmentation.augmented(data, run.config, run.epochs_done)
        loss_sum, tallies = 0.0, objectives.nothing(run.network)
        run.network.anneal(run.epochs_done)
        run.network.train()
        for chosen in np.array_split(order, batches):
            added, *here = batch_gradients(run, split, chosen, dtype)
            if training.clip:
                torch.nn.utils.clip_grad_norm_(run.network.parameters(), training.clip)
            run.optimizer.step()
            run.network.project()
            loss_sum += added * len(chosen)
            tallies = [sum(pair) for pair in zip(tallies, here, strict=True)]
            progress.advance(bar)
        run.network.eval()
        loss_sum, *tallies = parallel.total(loss_sum, *tallies)
        measures = objectives.measured(tallies, data.train.y)
        run.epochs_done += 1
        line = {
            "epoch": run.epochs_done,
            "loss": loss_sum / len(order),
            **{f"train_{name}": value for name, value in measures.items()},
            "rate": rate,
        }
        # A NaN in a hidden layer can hide from the loss: no spike comes of it.
        finite = all(bool(torch.isfinite(parameter).all()) for parameter in run.network.parameters())
        if not (np.isfinite(line["loss"]) and finite):
            raise BadInput(
                f"{run.path}: the loss or a parameter is not finite in epoch {run.epochs_done}: lower [training] rate"
            )
        if parallel.rank() == 0:
            _keep(run, line)
        said = objectives.worded(measures, training.loss)
        progress.update(bar, description=f"training {run.path.name}: train {said}")


def batch_gradients(run: Run, split: Split, chosen: np.ndarray, dtype: torch.dtype) -> tuple[float, ...]:
    """Gives the parameters the gradients of the mean loss on the `chosen` samples, which the processes share.

    Returns what this process's part adds to that mean, and the tally of its part (see objectives.py).
    """
    run.optimizer.zero_grad(set_to_none=True)
    own, added, tally = parallel.part(chosen), 0.0, objectives.nothing(run.network)
    if len(own):
        teacher = None if run.teacher is None else run.teacher.network
        added, tally = BatchLoss(run.network, teacher, len(chosen)).backward(*run.tensors(split.take(own), dtype))
    parallel.add_up_gradients([parameter for parameter in run.network.parameters() if parameter.requires_grad])
    return added, *tally


def _drop_lines(run: Run) -> None:
    """Takes the metrics of epochs that are not in the checkpoint, of a process that was killed.

    Raises BadInput with the line that is no epoch's; nothing is lost.
    """
    path = run.path / METRICS_FILE
    if not os.path.lexists(path):
        return
    found = reading.content(path, reading.LARGE_TEXT)
    *lines, torn = found.split(b"\n")  # torn: nothing, or what a process wrote when it was killed
    if _epoch(torn):  # or what an editor left without an end
        lines.append(torn)
    kept, last = [], 0
    for number, line in enumerate(lines, 1):
        if last == run.epochs_done:
            break
        epoch = _epoch(line)
        if epoch <= last:
            expected = f"the metrics of epoch {last + 1} or a later one, a JSON object of numbers"
            raise BadInput(f"{path}: line {number}: expected {expected}; mend or remove this line")
        if epoch <= run.epochs_done:
            kept.append(line + b"\n")
        last = min(epoch, run.epochs_done)
    if (done := b"".join(kept)) != found:
        files.write(path, done)


def _epoch(line: bytes) -> int:
    """The epoch, from 1, that a line of the metrics is of; 0 where it is no such line."""
    try:
        said = json.loads(line)
        plain = all(type(number) in (int, float) and math.isfinite(number) for number in said.values())
    except (ValueError, AttributeError, OverflowError, RecursionError):
        return 0
    epoch = said.get("epoch") if plain else None
    return epoch if isinstance(epoch, int) else 0


def _keep(run: Run, metrics: dict[str, float]) -> None:
    """Writes the epoch's metrics and the checkpoint: both, or neither."""
    try:
        with files.appended(run.path / METRICS_FILE, json.dumps(metrics) + "\n"):
            files.write(run.path / CHECKPOINT_FILE, run.checkpoint())
    except BadInput as error:
        raise BadInput(f"{error}; --resume goes on after epoch {run.epochs_done - 1}") from None

"""What is learned and how it is measured: the kinds of [training] loss, each of the hard integer readout.

"last": y (samples,) are classes; the cross-entropy of the last output; the share of samples whose class is right.
"steps": y (samples, steps) are classes, or below 0 where a step does not count; the cross-entropy of each output,
its mean over a sample's steps that count; the share of such steps whose class is right.
"regression": y (samples, outputs) are real; the squared error of the last output's real value, in units of what the
training targets reach from their mean; RMSE, and R², the mean of the outputs' own.

Deployed, a class is the argmax of one step's output: there is no loss of the mean over steps, which would never be run.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from quantal.qat.data.common import bad
from quantal.qat.data.registry import Dataset
from quantal.qat.network.network import LOGIT_RANGE, SpikingNetwork

LARGEST_TARGET = 1e100


def loss_for(y: np.ndarray) -> str:
    """The loss that labels or targets of this shape and type ask for."""
    if y.dtype.kind == "f":
        return "regression"
    return "steps" if y.ndim == 2 else "last"


def check(loss: str, data: Dataset, task: str) -> None:
    """Raises BadInput unless the loss is the one for what the task has to be learned."""
    wanted = loss_for(data.train.y)
    if loss != wanted:
        has = {"last": "a class a sample", "steps": "a class a step", "regression": "real targets"}[wanted]
        raise bad("training", "loss", f"{wanted!r}, as task {task} has {has}, got {loss!r}")
    if loss == "regression":
        largest = max(float(np.abs(part.y).max(initial=0)) for part in (data.train, data.test))
        if largest > LARGEST_TARGET:
            raise bad(
                task, "targets", f"at most {LARGEST_TARGET:g} in size, whose squares are added up, got {largest:g}"
            )


def summed_loss(network: SpikingNetwork, logits: Tensor, y: Tensor, whole: Tensor) -> Tensor:
    """The loss of what `network.logits` has given, summed over samples; y of these steps, `whole` of all."""
    loss = network.config.training.loss
    if loss == "last":
        return functional.cross_entropy(logits, y, reduction="sum")
    if loss == "steps":
        each = functional.cross_entropy(logits.transpose(1, 2), y.clamp(min=-1), ignore_index=-1, reduction="none")
        return (each.sum(dim=1) / (whole >= 0).sum(dim=1).clamp(min=1)).sum()
    wanted = (y - network.target_mean) / network.target_reach
    return (logits / LOGIT_RANGE - wanted.to(logits.dtype)).square().mean(dim=1).sum()


def nothing(network: SpikingNetwork) -> list[float]:
    """The tally of no samples."""
    return [0.0] * (network.config.layers[-1].size if network.config.training.loss == "regression" else 2)


@torch.no_grad()
def tally(network: SpikingNetwork, logits: Tensor, y: Tensor) -> list[float]:
    """What `measured` takes of these samples, to be added up.

    (how many labels are met, how many there are): those that a step has, which may be others than the data set's, for
    augmentation moves them. Or each output's squared error.
    """
    if network.config.training.loss != "regression":
        return [int((logits.argmax(dim=-1) == y).sum()), int((y >= 0).sum())]
    value = network.target_mean + network.target_reach * (logits.double() / LOGIT_RANGE)
    errors: list[float] = (value - y).square().sum(dim=0).tolist()
    return errors


def measured(tallies: list[float], y: np.ndarray) -> dict[str, float]:
    """The measures of all samples: accuracy, or rmse and r2 of real targets y, NaN where these are constant."""
    if y.dtype.kind != "f":
        right, labels = tallies
        return {"accuracy": right / max(1, labels)}
    deviations = np.square(y - y.mean(axis=0)).sum(axis=0)
    r2 = [1 - error / total if total else np.nan for error, total in zip(tallies, deviations, strict=True)]
    return {"rmse": float(np.sqrt(sum(tallies) / y.size)), "r2": float(np.mean(r2))}


def worded(measures: dict[str, float], loss: str) -> str:
    """The measures as `train` prints them."""
    if loss == "regression":
        return f"RMSE {measures['rmse']:.6g}, R² {measures['r2']:.4f}"
    return f"accuracy {'per step ' if loss == 'steps' else ''}{100 * measures['accuracy']:.2f} %"

"""What a run has learned, measured on the hard form of its network: what is deployed."""

import torch
from rich.progress import Progress
from torch import Tensor

from quantal.qat.arithmetic.exact import FLOAT64
from quantal.qat.config.parts.layers import Reservoir
from quantal.qat.data.registry import Split
from quantal.qat.training import diagnosis, objectives, parallel
from quantal.qat.training.batches import EVALUATION_BATCH, batches_of, calibration_sample
from quantal.qat.training.run import Run


def accuracy_of(run: Run, split: Split, progress: Progress) -> float:
    """The share of the labels of `split` that the hard form of the network gets right."""
    return measure(run, split, progress)["accuracy"]


def measure(run: Run, split: Split, progress: Progress) -> dict[str, float]:
    """How well the hard form of the network does on `split`: accuracy, or rmse and r2."""
    dtype = run.exact_dtype()
    tallies = objectives.nothing(run.network)
    own = list(batches_of(split, EVALUATION_BATCH))[parallel.rank() :: parallel.size()]
    for part in progress.track(own, description="testing"):
        x, y = run.tensors(part, dtype)
        with torch.no_grad():  # in float64, in which no two integers become one logit
            logits = run.network.answers(x).double() * run.network.logit_unit(x.shape[1])
        here = objectives.tally(run.network, logits, y)
        tallies = [sum(pair) for pair in zip(tallies, here, strict=True)]
    return objectives.measured(parallel.total(*tallies), split.y)


def findings(run: Run, split: Split) -> list[str]:
    """What is wrong with the network, if anything, on some samples of `split`, a line each (see diagnosis.py)."""
    some = calibration_sample(split)
    return diagnosis.findings(run.network, run.tensors(some, run.exact_dtype())[0], some.y)


def spike_rates(run: Run, split: Split) -> dict[str, float]:
    """How often a neuron of each reservoir spikes in a step, on average over `split`, by the layer's name."""
    names = [layer.config.name for layer in run.network.stack if isinstance(layer.config, Reservoir)]
    if not names:
        return {}
    spikes, dtype = torch.zeros(len(names), **FLOAT64), run.exact_dtype()
    for part in batches_of(split, EVALUATION_BATCH):
        sent: list[Tensor] = []
        with torch.no_grad():
            run.network(run.tensors(part, dtype)[0], sent=sent)
        spikes += torch.stack([own.double().mean((0, 2)).sum().cpu() for own in sent[: len(names)]])
    return dict(zip(names, (spikes / len(split.y)).tolist(), strict=True))

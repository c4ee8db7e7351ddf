"""A run trained as every command and the Python interface train it: the same bits, whoever asks."""

import torch
from rich.progress import Progress

from quantal.qat.data.registry import Dataset
from quantal.qat.engine import cpu
from quantal.qat.training import parallel
from quantal.qat.training.epochs import train_until
from quantal.qat.training.measure import measure
from quantal.qat.training.run import Run


def train(run: Run, data: Dataset, epochs: int, bars: Progress) -> dict[str, float]:
    """Trains the run until `epochs` epochs are done in all; how well its hard form does on the test set."""
    before = torch.get_num_threads(), cpu.threads()
    torch.set_num_threads(1)  # at these sizes a second thread costs more than it gives, and sums in another order
    cpu.set_threads(max(1, cpu.threads() // parallel.neighbours()))
    try:
        train_until(run, data, epochs, bars)
        return measure(run, data.test, bars)
    finally:
        torch.set_num_threads(before[0])
        cpu.set_threads(before[1])

"""Networks of pre-activation residual blocks with and without PSP normalization (arXiv 2203.01544), on digits.

A block is x + W₂ PN(s(W₁ PN(s(x)))), x being a current: two layers, of which the second adds the current of the block
before. Each row is a network trained in 4-bit weights and 8-bit states from its beginning: the loss and the norm of the
gradients before its first and its last epoch, how often a neuron of the last block fires, the test accuracy of the
integers, and in how many values other executors differ from torch. Rows go to residual.csv as they come; what stands
there is not run again.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from deployment import deploy
from study import SILENT, Rows, cell, table

from quantal.qat.config import config_file
from quantal.qat.config.parts.network import Config
from quantal.qat.training.epochs import batch_gradients, train_until
from quantal.qat.training.measure import accuracy_of
from quantal.qat.training.run import load_data
from quantal.qat.training.start import new_run

FIGURES = ("first_loss", "last_loss", "first_gradient", "last_gradient", "rate", "accuracy", "mismatches")
STUDY = Rows(Path(__file__).with_suffix(".csv"), ("blocks", "norm", "seed"), FIGURES)
SIZE, EPOCHS = 32, 8


def network(blocks: int, norm: str, seed: int) -> Config:
    """The configuration: a stem, so many blocks, and a readout."""
    hidden = {"size": SIZE, "norm": norm, "states": {"range": 8.0}}
    layers = [{"name": "stem", "weights": {"gain": 4.0}} | hidden]
    for block in range(1, blocks + 1):
        before = layers[-1]["name"]
        layers.append({"name": f"inner{block}"} | hidden)
        # So that the stream does not grow with the number of blocks.
        layers.append({"name": f"outer{block}", "add": before, "weights": {"gain": blocks**-0.5}} | hidden)
    layers.append({"name": "out", "size": 10, "neuron": "li", "norm": norm, "states": {"range": 32.0}})
    document = {
        "task": {"name": "digits"},
        "encoder": {"kind": "direct", "steps": 6},
        "layer": layers,
        "training": {"epochs": EPOCHS, "seed": seed, "rate": 2e-3},
    }
    return config_file.made(document, f"{blocks} blocks")


def work(blocks: int, norm: str, seed: int) -> list[tuple[object, ...]]:
    """One row: trains, exports and verifies one network."""
    data = load_data(config := network(blocks, norm, seed), None)
    with tempfile.TemporaryDirectory(prefix="quantal-") as folder:
        run = new_run(Path(folder) / "run", config, data)
        losses, gradients = [], []
        for epoch in range(EPOCHS):
            chosen = np.arange(0, len(data.train.y), 8)
            added, *_ = batch_gradients(run, data.train, chosen, run.exact_dtype())
            total = torch.stack([p.grad.norm() for p in run.network.parameters() if p.grad is not None]).norm()
            losses.append(f"{added:.4f}")
            gradients.append(f"{float(total):.4g}")
            train_until(run, data, epoch + 1, SILENT)
        build, mismatches = deploy(run, Path(folder) / "build")
        _, trace = build.vectors()
        accuracy = f"{100 * accuracy_of(run, data.test, SILENT):.2f}"
    ends = (losses[0], losses[-1], gradients[0], gradients[-1])
    return [(blocks, norm, seed, *ends, f"{trace[f'outer{blocks}.spike'].mean():.4f}", accuracy, mismatches)]


def report() -> str:
    """A row with and without the norm: means and deviations over the seeds, and mismatches in all."""
    lines = []
    for key in dict.fromkeys((row["blocks"], row["norm"]) for row in STUDY):
        rows = [row for row in STUDY if (row["blocks"], row["norm"]) == key]
        found = sum(int(row["mismatches"]) for row in rows)
        lines.append((*key, *(cell(rows, name, 2) for name in FIGURES[:-1]), str(found)))
    return table(("blocks", "norm", *(name.replace("_", " ") for name in FIGURES)), lines, words=2)


def main() -> None:
    """Runs what is missing, and prints the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--blocks", type=int, nargs="+", default=[50])
    options.add_argument("--seeds", type=int, default=3, help="seeds 0 to this number, exclusive")
    options.add_argument("--jobs", type=int, default=2, help="networks trained side by side, a core each")
    chosen = options.parse_args()
    missing = [
        (blocks, norm, seed)
        for seed in range(chosen.seeds)
        for blocks in chosen.blocks
        for norm in ("psp", "none")
        if (blocks, norm, seed) not in STUDY
    ]
    failed = STUDY.run(work, missing, chosen.jobs)
    print(report())
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

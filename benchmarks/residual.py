"""Networks of pre-activation residual blocks with and without PSP normalization (arXiv 2203.01544), on digits.

    python benchmarks/residual.py [--blocks 50] [--epochs N]

A block is x + W₂ PN(s(W₁ PN(s(x)))), x being a current: two layers, of which the second adds the current of the block
before. Each row is a network trained in 4-bit weights and 8-bit states from its beginning: the loss and the norm of the
gradients before its first and its last epoch, how often a neuron of the last block fires, the test accuracy of the
integers, and in how many values other executors differ from torch. Rows go to benchmarks/residual.csv as they come;
what is there is not run again.
"""

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
import tomli_w
import torch
from deployment import deploy
from rich.progress import Progress

from export.errors import BadInput
from qat import config_file
from qat.config import Config
from qat.train import Run, load_data

ROWS = Path(__file__).with_suffix(".csv")
FIELDS = (
    "blocks", "norm", "seed", "first_loss", "last_loss", "first_gradient", "last_gradient", "rate", "accuracy",
    "mismatches",
)  # fmt: skip
SIZE = 32


def network(blocks: int, norm: str, epochs: int, seed: int) -> Config:
    """The configuration: a stem, so many blocks, and a readout."""
    hidden = {"size": SIZE, "norm": norm, "state_range": 8.0}
    layers = [{"name": "stem", "gain": 4.0} | hidden]
    for block in range(1, blocks + 1):
        before = layers[-1]["name"]
        layers.append({"name": f"inner{block}"} | hidden)
        # So that the stream does not grow with the number of blocks.
        layers.append({"name": f"outer{block}", "add": before, "gain": blocks**-0.5} | hidden)
    layers.append({"name": "out", "size": 10, "neuron": "li", "norm": norm, "state_range": 32.0})
    document = {
        "task": {"name": "digits"},
        "encoder": {"kind": "direct", "steps": 6},
        "layer": layers,
        "training": {"epochs": epochs, "seed": seed, "rate": 2e-3},
    }
    return config_file.loads(tomli_w.dumps(document), f"{blocks} blocks")


def measure(blocks: int, norm: str, epochs: int, seed: int, folder: Path) -> dict[str, object]:
    """Trains, exports and verifies one network."""
    data = load_data(config := network(blocks, norm, epochs, seed), None)
    run = Run.create(folder / "run", config, data)
    losses, gradients = [], []
    silent = Progress(disable=True)
    for epoch in range(epochs):
        chosen = np.arange(0, len(data.train.y), 8)
        added, *_ = run.gradients(data.train, chosen, run.exact_dtype())
        total = torch.stack([p.grad.norm() for p in run.network.parameters() if p.grad is not None]).norm()
        losses.append(added)
        gradients.append(float(total))
        run.train(data, epoch + 1, silent)
    build, mismatches = deploy(run, folder / "build")
    _, trace = build.vectors()
    return {
        "first_loss": f"{losses[0]:.4f}", "last_loss": f"{losses[-1]:.4f}",
        "first_gradient": f"{gradients[0]:.4g}", "last_gradient": f"{gradients[-1]:.4g}",
        "rate": f"{trace[f'outer{blocks}.spike'].mean():.4f}",
        "accuracy": f"{100 * run.accuracy(data.test, silent):.2f}", "mismatches": mismatches,
    }  # fmt: skip


def main() -> None:
    """Runs what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, nargs="+", default=[50])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    there = list(csv.DictReader(ROWS.open())) if ROWS.exists() else []
    done = {(row["blocks"], row["norm"], row["seed"]) for row in there}
    with ROWS.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if not there:
            writer.writeheader()
        for seed in range(given.seeds):
            for blocks in given.blocks:
                for norm in ("psp", "none"):
                    if (str(blocks), norm, str(seed)) in done:
                        continue
                    with tempfile.TemporaryDirectory() as folder:
                        try:
                            row = measure(blocks, norm, given.epochs, seed, Path(folder))
                        except BadInput as error:  # it diverged
                            row = {"mismatches": str(error)[:80]}
                    writer.writerow({"blocks": blocks, "norm": norm, "seed": seed} | row)
                    file.flush()
                    print(blocks, norm, seed, row, flush=True)


if __name__ == "__main__":
    main()

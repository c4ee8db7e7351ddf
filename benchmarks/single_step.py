"""S²NN (arXiv 2201.10879): a network of a single step, neurons without a state, on the pixels of mnist.

784-256-256-10, 4-bit weights, batch norm folded away, the first layer on integers of 8 bits. A row a seed: test
accuracy of the integer network in percent, bytes of tables and state and instructions a step on a Cortex-M4, mismatches
between torch and the executors. Rows go to single_step.csv; what stands there is not run again. --data names the folder
of mnist's files.
"""

import sys
import tempfile
from pathlib import Path

from deployment import deploy, instructions, size
from study import SILENT, Rows, cell, numbers, parser, table

from quantal.qat.config import config_file
from quantal.qat.config.parts.network import Config
from quantal.qat.training.epochs import train_until
from quantal.qat.training.measure import accuracy_of
from quantal.qat.training.run import load_data
from quantal.qat.training.start import new_run

STUDY = Rows(Path(__file__).with_suffix(".csv"), ("seed",), ("accuracy", "bytes", "instructions", "mismatches"))


def network(seed: int) -> Config:
    """The configuration."""
    hidden = [{"name": name, "size": 256, "neuron": "step", "norm": "batch"} for name in ("first", "second")]
    readout = {"name": "out", "size": 10, "neuron": "li", "states": {"range": 16.0}}
    document = {
        "task": {"name": "mnist"},
        "encoder": {"steps": 1},
        "layer": [*hidden, readout],
        "training": {"epochs": 12, "batch": 128, "surrogate": "s2nn", "slope": 4.0, "seed": seed},
    }
    return config_file.made(document, "single_step.py")


def work(seed: int, data: Path) -> list[tuple[object, ...]]:
    """One row."""
    given = load_data(config := network(seed), data)
    with tempfile.TemporaryDirectory(prefix="quantal-") as folder:
        run = new_run(Path(folder) / "run", config, given)
        train_until(run, given, config.training.epochs, SILENT)
        build, mismatches = deploy(run, Path(folder) / "build")
        figures = f"{100 * accuracy_of(run, given.test, SILENT):.2f}", size(build), instructions(build), mismatches
    return [(seed, *figures)]


def report() -> str:
    """Mean and deviation of the accuracy over the seeds, and mean costs."""
    costs = [f"{numbers(STUDY, name)[0]:,.0f}" for name in STUDY.columns[2:]]
    return table(STUDY.columns[1:], [[cell(STUDY, digits=2), *costs]], words=0)


def main() -> None:
    """Runs what is missing, and prints the table."""
    chosen = parser(__doc__).parse_args()
    missing = [(seed, chosen.data) for seed in range(chosen.seeds) if (seed,) not in STUDY]
    failed = STUDY.run(work, missing, chosen.jobs) if chosen.data else 0
    print(report())
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

"""Accuracy against synaptic operations: the spiking synaptic penalty (arXiv 2302.01500), `[training] penalty` λ.

The networks of quantizer_study.py are trained in full precision, without it, and then as long again with 4-bit weights
and `aligned` states, with it. λ = 0 is what the others are compared with. Of each network:

  accuracy      on the test set, in percent
  operations    synaptic ones a sample, mean over the test set, of the integer network (SpikingNetwork.operations)
  rate          spikes of a hidden neuron a step, over the test set
  instructions  a step over the vectors, mean on an emulated Cortex-M4, as `quantal cost` counts them
  mismatches    between torch and the executors, over the vectors

Rows go to penalty.csv as they come; what stands there is not run again. --data names a folder that holds the data sets
as fsdd and braille; --out keeps the networks in full precision. Prints the table, means and
deviations over the seeds, and with --plot draws penalty.svg among the plots of docs/results.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from deployment import deploy, instructions
from pruning import FULL, config, trained
from quantizer_study import dataset
from study import SILENT, Rows, cell, numbers, parser, table, write_figure
from torch import Tensor

from quantal.qat.data.registry import Dataset
from quantal.qat.training.batches import EVALUATION_BATCH, batches_of
from quantal.qat.training.epochs import train_until
from quantal.qat.training.measure import accuracy_of
from quantal.qat.training.run import Run
from quantal.qat.training.start import Start, new_run

STUDY = Rows(
    Path(__file__).with_suffix(".csv"),
    ("task", "penalty", "seed"),
    ("accuracy", "operations", "rate", "instructions", "mismatches"),
)
TASKS = ("speech", "braille")
LADDER = ("0", "0.1", "0.3", "1", "3", "10", "30")
BITS = 4


def work(task: str, penalty: str, seed: int, folder_of_data: Path, out: Path) -> list[tuple[object, ...]]:
    """One row."""
    data = dataset(task, folder_of_data)
    with tempfile.TemporaryDirectory(prefix="quantal-") as folder:
        wanted = config(task, seed, FULL, BITS)
        wanted = replace(wanted, training=replace(wanted.training, penalty=float(penalty)))
        run = new_run(Path(folder) / "run", wanted, data, Start(trained(task, seed, FULL, data, out), "gpfq"))
        train_until(run, data, wanted.training.epochs, SILENT)
        operations, rate = activity(run, data)
        build, mismatches = deploy(run, Path(folder) / "build")
        accuracy, counted = 100 * accuracy_of(run, data.test, SILENT), instructions(build)
    return [(task, penalty, seed, f"{accuracy:.2f}", f"{operations:.0f}", f"{rate:.4f}", counted, mismatches)]


@torch.no_grad()
def activity(run: Run, data: Dataset) -> tuple[float, float]:
    """(synaptic operations a sample, spikes of a hidden neuron a step) over the test set, of the hard form."""
    operations = spikes = 0.0
    for part in batches_of(data.test, EVALUATION_BATCH):
        sent: list[Tensor] = []
        run.network(run.tensors(part, run.exact_dtype())[0], sent=sent)
        operations += float(run.network.operations(sent).double().sum())
        spikes += float(sent[0].double().mean(dim=(0, 2)).sum())
    return operations / len(data.test.y), spikes / len(data.test.y)


def ladders() -> dict[str, dict[str, list[dict[str, str]]]]:
    """The rows of all seeds, by task and λ, both in order."""
    found: dict[str, dict[str, list[dict[str, str]]]] = {}
    for task in TASKS:
        for penalty in LADDER:
            if seeds := [row for row in STUDY if (row["task"], row["penalty"]) == (task, penalty)]:
                found.setdefault(task, {})[penalty] = seeds
    return found


def report() -> str:
    """A row a λ: for each task accuracy, synaptic operations a sample, instructions a step, each of both against λ = 0.

    Operations: how many times fewer; instructions: how many percent fewer.
    """
    tasks, lines = ladders(), []
    for penalty in LADDER:
        line = [penalty]
        for ladder in tasks.values():
            rows, free = ladder[penalty], ladder["0"]
            operations, counted = (numbers(rows, name)[0] for name in ("operations", "instructions"))
            fewer = numbers(free, "operations")[0] / operations
            less = 100 * (1 - counted / numbers(free, "instructions")[0])
            line += [cell(rows), f"{operations:,.0f}", f"{fewer:.1f}", f"{counted:,.0f}", f"{less:.0f} %"]
        lines.append(line)
    heads = ("operations", "times fewer", "instructions", "fewer")
    seeds = {task: len(ladder["0"]) for task, ladder in tasks.items()}
    return table(("λ", *(name for task in tasks for name in (f"{task}, {seeds[task]} seeds", *heads))), lines)


def plot() -> None:
    """Accuracy against synaptic operations, a line a task, a point a λ."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "quantal"  # equal rows, equal bytes
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for task, ladder in ladders().items():
        x = [numbers(rows, "operations")[0] for rows in ladder.values()]
        y, deviations = zip(*(numbers(rows) for rows in ladder.values()), strict=True)
        axes.errorbar(x, y, yerr=deviations, label=task, marker="o", capsize=3)
        for penalty, place in zip(ladder, zip(x, y, strict=True), strict=True):
            axes.annotate(penalty, place, xytext=(3, 4), textcoords="offset points", fontsize="x-small")
    axes.set(xscale="log", xlabel="synaptic operations a sample", ylabel="test accuracy, %", title="λ at each point")
    axes.legend(fontsize="small")
    write_figure("penalty", figure)


def main() -> None:
    """Runs what is missing, and prints the table."""
    options = parser(__doc__, side_by_side=False)
    options.add_argument("--out", type=Path, default=Path("build/pruning"), help="shared with pruning.py")
    options.add_argument("--task", action="append", choices=TASKS, help="only this one; may be repeated")
    options.add_argument("--plot", action="store_true", help="draw the plot too")
    chosen = options.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    missing = [
        (task, penalty, seed, chosen.data, chosen.out)
        for seed in range(chosen.seeds)
        for penalty in LADDER
        for task in chosen.task or TASKS
        if (task, penalty, seed) not in STUDY
    ]
    failed = STUDY.run(work, missing, 1) if chosen.data else 0
    print(report())
    if chosen.plot:
        plot()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

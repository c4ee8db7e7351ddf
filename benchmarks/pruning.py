"""Accuracy, bytes and instructions against the width of a recurrent layer: pruned, or that narrow from the beginning.

On spoken digits and Braille letters, with the networks of quantizer_study.py, 128 neurons wide. All are trained in full
precision, and then as long again with 4-bit weights and states:

  full      as wide as it was
  pruned    spectrally pruned in between (qat/methods/pruning.py)
  scratch   narrow from the beginning
  taught    as pruned, and the network in full precision teaches it beside the labels
  selected  as pruned, but weights are left out, not rewritten
  random    as pruned, but the neurons to keep are drawn
  staged    pruned to 96 neurons, trained once more in full precision, and pruned again

With -long after its name the second training is twice as long, its rate halved half as often. `before` is the accuracy
before the second training, in full precision. Bytes are tables and state of the compiled header, instructions are those
of a step on the vectors, both on a Cortex-M4. Rows go to pruning.csv as they come; what stands there is not run again.
--data names a folder that holds the data sets as fsdd and braille; --out keeps the networks in full precision. Prints
the table, means and deviations over the seeds.
"""

import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import torch
from deployment import deploy, instructions
from deployment import size as size_of
from quantizer_study import REAL_STATES, REAL_WEIGHTS, Row, dataset, network
from study import SILENT, Rows, cell, numbers, parser, table

from quantal.qat.config.parts.fields import replace
from quantal.qat.config.parts.network import Config
from quantal.qat.data.registry import Dataset
from quantal.qat.methods import pruning
from quantal.qat.methods.pruning import Cut
from quantal.qat.training.epochs import train_until
from quantal.qat.training.measure import accuracy_of
from quantal.qat.training.run import Run
from quantal.qat.training.start import Start, new_run

STUDY = Rows(
    Path(__file__).with_suffix(".csv"),
    ("task", "method", "size", "seed"),
    ("before", "accuracy", "bytes", "instructions", "mismatches"),
)
TASKS = ("speech", "braille")
LONG = "-long"
METHODS = (
    *("full", "pruned", "scratch", "taught", "staged"),
    *(f"{method}{LONG}" for method in ("full", "pruned", "taught", "scratch")),
    *("selected", "random"),
)
FULL, STAGE = 128, 96
NETWORKS = [(method, FULL if method.startswith("full") else FULL // 2) for method in METHODS]
NETWORKS += [(method, size) for size in (96, 32) for method in ("pruned", "scratch")]


def config(task: str, seed: int, size: int, bits: int | str) -> Config:
    """The task's network, with so many hidden neurons and weights and states of so many bits, or "float"."""
    row = Row("both", (bits, "lsq"), (bits, "aligned"))
    wide = network(task, seed, Row("fp", REAL_WEIGHTS, REAL_STATES) if bits == "float" else row)
    return replace(wide, layers=(replace(wide.layers[0], size=size), *wide.layers[1:]))


def trained(task: str, seed: int, size: int, data: Dataset, out: Path) -> Run:
    """The network in full precision, so wide from the beginning, in `out` once it has been trained."""
    path, wanted = out / f"{task}-{seed}-{size}", config(task, seed, size, "float")
    run = Run.open(path) if path.exists() else new_run(path, wanted, data)
    train_until(run, data, wanted.training.epochs, SILENT)
    return run


def pruned(source: Run, method: str, size: int, seed: int, data: Dataset, path: Path) -> Run:
    """The run with its hidden layer pruned, or the control of that name."""
    run, cuts = pruning.prune(source, data, {"hidden": size}, path, SILENT)
    kept, mix = cuts["hidden"].kept, cuts["hidden"].mix
    if method == "selected":
        mix = torch.eye(FULL, dtype=mix.dtype)[:, kept]
    elif method == "random":
        kept = torch.randperm(FULL, generator=torch.Generator().manual_seed(seed))[:size].sort().values
        x, _ = source.tensors(data.train, torch.float32)
        sigma = pruning.second_moments(source.network, [x])["hidden"]
        mix = pruning.reconstruction(sigma, kept, pruning.RIDGE * float(sigma.trace()) / FULL)
    pruning.rewrite(source.network, {"hidden": Cut(kept, mix, 0.0)}, run.network)
    return run


def work(task: str, method: str, size: int, seed: int, folder_of_data: Path, out: Path) -> list[tuple[object, ...]]:
    """One row."""
    wanted, data, key = config(task, seed, size, 4), dataset(task, folder_of_data), (task, method, size, seed)
    if method.endswith(LONG):
        method, training = method.removesuffix(LONG), wanted.training
        wanted = replace(wanted, training=replace(training, epochs=2 * training.epochs, halving=2 * training.halving))
    with tempfile.TemporaryDirectory(prefix="quantal-") as folder:
        start = trained(task, seed, size if method == "scratch" else FULL, data, out)
        if method == "staged":
            start = pruned(start, method, STAGE, seed, data, Path(folder) / "stage")
            train_until(start, data, start.config.training.epochs, SILENT)
        if method not in ("full", "scratch"):
            start = pruned(start, method, size, seed, data, Path(folder) / "pruned")
        teacher = trained(task, seed, FULL, data, out) if method == "taught" else None
        run = new_run(Path(folder) / "run", wanted, data, Start(start, "gpfq"), teacher)
        train_until(run, data, wanted.training.epochs, SILENT)
        before, after = (100 * accuracy_of(one, data.test, SILENT) for one in (start, run))
        build, mismatches = deploy(run, Path(folder) / "build")
        return [(*key, f"{before:.2f}", f"{after:.2f}", size_of(build), instructions(build), mismatches)]


def report() -> str:
    """A row a width and method: of each task accuracy before the second training and after it, bytes, instructions."""
    groups = defaultdict(list)
    for row in STUDY:
        groups[-int(row["size"]), METHODS.index(row["method"]), row["task"]].append(row)
    lines = []
    for narrow, method in dict.fromkeys((key[:2]) for key in sorted(groups)):
        line = [str(-narrow), METHODS[method]]
        for rows in (groups[narrow, method, task] for task in TASKS):
            costs = (f"{numbers(rows, name)[0]:,.0f}" for name in ("bytes", "instructions"))
            line += [cell(rows, "before"), cell(rows), *costs]
        lines.append(line)
    heads = [head for task in TASKS for head in (f"{task}, before", "after", "bytes", "instructions")]
    return table(("neurons", "", *heads), lines, words=2)


def main() -> None:
    """Runs what is missing, and prints the table."""
    options = parser(__doc__, side_by_side=False)
    options.add_argument("--out", type=Path, default=Path("build/pruning"))
    chosen = options.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    missing = [
        (task, method, size, seed, chosen.data, chosen.out)
        for method, size in NETWORKS
        for seed in range(chosen.seeds)
        for task in TASKS
        if (task, method, size, seed) not in STUDY
    ]
    failed = STUDY.run(work, missing, 1) if chosen.data else 0
    print(report())
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

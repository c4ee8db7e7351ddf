"""What each quantizer costs: accuracy, spike rate and bytes of one network a task at 8, 4, 3 and 2 bits, over seeds.

Four ways from a network in full precision to W-bit weights and S-bit states: ptq, both are quantized, and it is not
trained again; weight-qat, it is trained again with quantized weights, and states are quantized after that (16 bits:
left as they are); state-qat, with quantized states, and weights after that; both, with both. Training again takes as
long as the first time. A fifth, scratch: trained once, quantized from the first step. A readout integrates in 16 bits,
as wide as a spike count; its weights are quantized as the others. What can be deployed is exported and compared with
torch bit for bit.

A spike resets the membrane one step later, as in snnTorch; with -immediate after the name of a state quantizer, at
once. With -identity its gradient is not cut where the membrane is saturated.

Rows go to quantizer_study.csv as they come; what stands there is not run again. --data names a folder that holds the
data sets as mnist, fsdd, braille and nmnist_small; --out keeps the networks in full precision.
"""

import functools
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from deployment import deploy, size
from study import SILENT, Rows, parser

from quantal.qat.config import config_file
from quantal.qat.config.parts.fields import replace
from quantal.qat.config.parts.network import Config
from quantal.qat.data.registry import Dataset, Split
from quantal.qat.training.epochs import train_until
from quantal.qat.training.measure import accuracy_of
from quantal.qat.training.run import Run, load_data
from quantal.qat.training.start import Start, new_run

STUDY = Rows(
    Path(__file__).with_suffix(".csv"),
    ("task", "method", "weight_bits", "weight_quantizer", "state_bits", "state_quantizer", "seed"),
    ("accuracy", "rate", "bytes", "mismatches"),
)
WIDE = (16, "uniform")  # states that cost nothing
RATE_SAMPLES = 250


@dataclass(frozen=True)
class Setting:
    """A task's data below --data, and its network: hidden layer, readout, training."""

    folder: str
    task: dict[str, Any]
    encoder: dict[str, Any]
    classes: int
    hidden: dict[str, Any]
    gain: float
    decays: tuple[float, float]
    training: dict[str, Any]


SPEECH = {"name": "speech", "channels": 40, "floor_db": 40}
SETTINGS = {
    "mnist": Setting(
        "mnist", {"name": "mnist"}, {"kind": "rate", "steps": 10}, 10, {"size": 128}, 3.0, (0.9, 0.95),
        {"epochs": 3, "batch": 128, "rate": 2e-3, "halving": 1.0},
    ),
    "speech": Setting(
        "fsdd", SPEECH, {"kind": "delta", "steps": 64, "delta": 16}, 10, {"size": 128, "recurrent": True}, 2.0,
        (0.9, 0.98), {"epochs": 25, "batch": 50, "rate": 3e-3, "halving": 8.0, "slope": 20.0},
    ),
    "braille": Setting(
        "braille", {"name": "braille"}, {"kind": "delta", "steps": 77, "delta": 6}, 27,
        {"size": 128, "recurrent": True}, 2.0, (0.8, 0.98),
        {"epochs": 60, "batch": 50, "rate": 3e-3, "halving": 20.0, "slope": 20.0},
    ),
    "nmnist": Setting(
        "nmnist_small", {"name": "nmnist"}, {"kind": "direct", "steps": 20}, 10, {"size": 128}, 2.0, (0.9, 0.95),
        {"epochs": 20, "batch": 32, "rate": 2e-3, "halving": 7.0},
    ),
}  # fmt: skip

Weights = tuple[int | str, str]
States = tuple[int | str, str]
REAL_WEIGHTS, REAL_STATES = ("float", "lsq"), ("float", "uniform")
AT_ONCE, UNCUT = "-immediate", "-identity"  # after a state quantizer's name
GRIDS = (
    "uniform", f"shared{AT_ONCE}", "squat", f"squat{AT_ONCE}", "squat-threshold", "squat-zero", "dq", "aligned",
    f"aligned{AT_ONCE}",
)  # fmt: skip
CALIBRATIONS = ("minmax", "percentile", "mse", "hindsight", "gpfq")


@dataclass(frozen=True)
class Row:
    """A network of the study: how it came about, and its quantizers. `calibration` where it was quantized last."""

    method: str
    weights: Weights
    states: States
    calibration: str = ""

    def key(self, task: str, seed: int) -> tuple[str, ...]:
        """Its first columns."""
        method = f"{self.method}-{self.calibration}" if self.calibration else self.method
        return tuple(map(str, (task, method, *self.weights, *self.states, seed)))


@dataclass(frozen=True)
class Job:
    """A network to train, and those that are made of it afterwards."""

    trained: Row
    after: tuple[Row, ...] = ()


def grids(bits: int) -> list[str]:
    """Those of GRIDS at so many bits: 255 sigmoids a state and step are too many, one control is for few bits."""
    return [grid for grid in GRIDS if (grid, bits) != ("dq", 8) and not (grid == f"squat{AT_ONCE}" and bits > 3)]


def jobs() -> Iterator[Job]:
    """All of one task and seed, most important first."""
    bits = (8, 4, 2)
    for timing in ("", AT_ONCE):
        each = tuple((b, grid) for b in bits for grid in grids(b) if grid.endswith(AT_ONCE) == bool(timing))
        after = [Row("ptq", (states[0], "lsq"), states, "gpfq") for states in each]
        if not timing:
            after += [Row("ptq", (b, "lsq"), WIDE, how) for b in bits for how in CALIBRATIONS]
        yield Job(Row("fp", REAL_WEIGHTS, ("float", f"uniform{timing}")), tuple(after))
    for b in (2, 3, 4, 8):
        for grid in grids(b):
            yield Job(Row("both", (b, "lsq"), (b, grid)))
    for b in bits:
        for timing in ("", AT_ONCE):
            chosen = [grid for grid in grids(b) if grid.endswith(AT_ONCE) == bool(timing)]
            after = [Row("weight-qat", (b, "lsq"), (b, grid), "mse") for grid in chosen]
            yield Job(Row("weight-qat", (b, "lsq"), (16, f"uniform{timing}")), tuple(after))
        for grid in grids(b):
            if grid != f"shared{AT_ONCE}":  # whose scale is that of quantized weights
                row = Row("state-qat", REAL_WEIGHTS, (b, grid))
                yield Job(row, (Row("state-qat", (b, "lsq"), (b, grid), "gpfq"),))
    for b, name in ((4, "dq"), (4, "dq-kmeans"), (4, "dq-power"), (4, "maqd"), (2, "dq"), (2, "tquant"), (2, "mquant"),
                    (2, "maqd"), (1, "lsq"), (1, "dq")):  # fmt: skip
        yield Job(Row("weight-qat", (b, name), WIDE))
    for name in ("dq", "tquant", "maqd"):
        yield Job(Row("both", (2, name), (2, f"aligned{AT_ONCE}")))
    for b in (2, 3):
        for grid in ("squat", "squat-threshold", "aligned", f"aligned{AT_ONCE}", f"squat{UNCUT}"):
            yield Job(Row("scratch", (3, "lsq"), (b, grid)))


def network(task: str, seed: int, row: Row) -> Config:
    """The configuration of one row."""
    setting = SETTINGS[task]
    (weight_bits, kind), (bits, grid) = row.weights, row.states
    weights: dict[str, Any] = {"quantizer": kind, "bits": weight_bits}
    if weight_bits == "float" or kind in ("tquant", "mquant"):
        weights = {"quantizer": "float" if weight_bits == "float" else kind}
    states: dict[str, Any] = {"quantizer": grid.removesuffix(AT_ONCE).removesuffix(UNCUT), "membrane": bits}
    states |= {"gradient": "identity"} if grid.endswith(UNCUT) else {}
    wide: dict[str, Any] = {"membrane": 16, "range": 16.0}
    if bits == "float":
        states = wide = {"quantizer": "float"}
    timing = "immediate" if grid.endswith(AT_ONCE) else "delayed"
    decay, slow = setting.decays
    hidden = {
        "name": "hidden",
        **setting.hidden,
        "neuron": {"decay": decay, "timing": timing},
        "weights": weights | {"gain": setting.gain},
        "states": states,
    }
    readout = {
        "name": "readout",
        "size": setting.classes,
        "neuron": {"kind": "li", "decay": slow},
        "weights": weights,
        "states": wide,
    }
    return config_file.made(document(task, [hidden, readout], seed), f"{task} {row}")


def document(task: str, layers: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """A network file of the task, with these layers."""
    setting = SETTINGS[task]
    training = setting.training | {"seed": seed}
    return {"task": setting.task, "encoder": setting.encoder, "layer": layers, "training": training}


@functools.cache
def dataset(task: str, data: Path) -> Dataset:
    """The task's data, read once a process."""
    setting = SETTINGS[task]
    config = network(task, 0, Row("fp", REAL_WEIGHTS, REAL_STATES))
    return load_data(config, data / setting.folder)


def work(task: str, seed: int, job: Job, data: Path, out: Path) -> list[tuple[str, ...]]:
    """The rows of one job. The network in full precision that it begins with is in `out`, or comes there."""
    given = dataset(task, data)
    full = out / f"{task}-{seed}{AT_ONCE if job.trained.states[1].endswith(AT_ONCE) else ''}"
    with tempfile.TemporaryDirectory(prefix="quantal-") as folder:
        path, config = Path(folder) / "run", network(task, seed, job.trained)
        if job.trained.method == "scratch":
            run = new_run(path, config, given)
        elif job.trained.method != "fp":
            how = "gpfq" if job.trained.weights[1] == "lsq" and job.trained.weights != REAL_WEIGHTS else "mse"
            run = new_run(path, config, given, Start(Run.open(full), how))
        else:
            run = Run.open(full) if full.exists() else new_run(full, config, given)
        train_until(run, given, config.training.epochs, SILENT)
        rows = [measure(task, seed, job.trained, run, given, Path(folder) / "build")]
        for index, row in enumerate(job.after):
            config = network(task, seed, row)
            config = replace(config, training=replace(config.training, epochs=0))
            quantized = new_run(Path(folder) / f"run{index}", config, given, Start(run, row.calibration))
            rows.append(measure(task, seed, row, quantized, given, Path(folder) / f"build{index}"))
    return rows


def measure(task: str, seed: int, row: Row, run: Run, data: Dataset, folder: Path) -> tuple[str, ...]:
    """A row: accuracy of the hard form on the test set, the hidden layer's spikes a neuron and step, bytes, mismatches.

    bytes: constant tables and state of the compiled header on a Cortex-M4. Empty where nothing can be deployed.
    """
    accuracy = accuracy_of(run, data.test, SILENT)
    record: dict[str, torch.Tensor] = {}
    x, _ = run.tensors(Split(data.test.x[:RATE_SAMPLES], data.test.y[:RATE_SAMPLES]), run.exact_dtype())
    with torch.no_grad():
        run.network(x, record)
    rate = float(record["hidden.spike"].mean())
    deployed: tuple[object, ...] = ("", "")
    if run.quantized:
        build, mismatches = deploy(run, folder)
        deployed = size(build), mismatches
    return (*row.key(task, seed), f"{100 * accuracy:.2f}", f"{rate:.4f}", *map(str, deployed))


def main() -> None:
    """Runs what is missing."""
    options = parser(__doc__)
    options.add_argument("--out", type=Path, default=Path("build/quantizer_study"))
    options.add_argument("--task", action="append", choices=list(SETTINGS), help="only this one; may be repeated")
    chosen = options.parse_args()
    if chosen.data is None:
        options.error("--data: missing; quantizer_report.py prints what there is")
    chosen.out.mkdir(parents=True, exist_ok=True)
    missing = []
    for seed in range(chosen.seeds):
        for job in jobs():
            for task in chosen.task or SETTINGS:
                after = tuple(row for row in job.after if row.key(task, seed) not in STUDY)
                if after or job.trained.key(task, seed) not in STUDY:
                    missing.append((task, seed, Job(job.trained, after), chosen.data, chosen.out))
    failed = 0
    for first in (True, False):  # full precision comes before all that begins with it
        failed += STUDY.run(work, [p for p in missing if (p[2].trained.method == "fp") is first], chosen.jobs)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

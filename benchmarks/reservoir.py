"""A liquid state machine on spoken digits: how often its reservoir spikes, and what a linear readout can tell from it.

80-256R-10, 64 steps of send-on-delta: 256 neurons with 4-bit weights and 8-bit states that are drawn and never trained,
and a readout of 4-bit weights. One row a kind of reservoir, rate asked for, readout and seed: accuracy of the integer
network on the test set, the rate there, and mismatches of the interpreter and of the host's C with torch on the stored
vectors. The kinds: `mixed`, a fifth of the neurons inhibit; `runaway`, none does, and one spike is enough to set off
all; `none`, no reservoir: the readout sees the input itself. The readouts: ridge regression on how often each neuron
has spiked (`counts`) or on traces of that (`traces`), and 10 epochs of gradients, of traces (`gradients`).

Rows go to reservoir.csv as they come; what stands there is not run again. --data names the folder of recordings.
"""

import argparse
import csv
import statistics
import tempfile
from pathlib import Path
from typing import Any

from rich.progress import Progress

from export.build import Build, write_build
from export.verify import batched, verify
from qat import config_check
from qat.config import Config, Encoder, Layer, Task, Training
from qat.data import Dataset
from qat.lower import exact_dtype, lower
from qat.network import hard_trace
from qat.train import Run, load_data

CSV = Path(__file__).with_name("reservoir.csv")
KEY = ("kind", "asked", "readout", "seed")
COLUMNS = (*KEY, "rate", "accuracy", "mismatches")
EXECUTORS = ("interpreter", "c-host")
KINDS: dict[str, dict[str, Any]] = {"none": {}, "mixed": {"gain": 0.5}, "runaway": {"inhibitory": 0.0, "gain": 64.0}}
RATES = {
    "none": (0.0,),
    "mixed": (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8),
    "runaway": (0.98,),
}
READOUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "counts": ({"decay": 1.0}, {"method": "ridge", "epochs": 0}),
    "traces": ({"decay": 0.95}, {"method": "ridge", "epochs": 0}),
    "gradients": ({"decay": 0.95, "state_range": 16.0}, {"epochs": 10, "batch": 50}),
}
"""Options of the layer, and of its training."""


def network(kind: str, rate: float, how: str, seed: int) -> Config:
    """The network of a row."""
    hidden = Layer("hidden", 256, recurrent=True, reservoir=True, rate=rate, **KINDS[kind])
    options, training = READOUTS[how]
    readout = Layer("readout", 10, neuron="li", states=16, **options)
    config = Config(
        Task("speech", {"channels": 40, "floor_db": 40}),
        Encoder("delta", steps=64, delta=16),
        (readout,) if kind == "none" else (hidden, readout),
        Training(seed=seed, **training),
    )
    config_check.check(config, "reservoir.py")
    return config


def measure(config: Config, data: Dataset) -> dict[str, str]:
    """A row's rate, accuracy in percent, and mismatches."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", config, data)
        run.train(data, config.training.epochs, Progress(disable=True))
        accuracy = run.accuracy(data.test, Progress(disable=True))
        samples, lowered = run.samples(), lower(run.network, "reservoir")
        trace = hard_trace(run.network, samples.x, exact_dtype(lowered))
        write_build(Path(folder) / "build", lowered, samples.x, trace)
        build, mismatches = Build.open(Path(folder) / "build"), 0
        for executor in EXECUTORS:
            comparison, error = verify(build, executor, batched(samples.x, trace, len(samples.x)), lambda _: None)
            if error or not comparison.values:
                raise RuntimeError(error or "nothing was compared")
            mismatches += comparison.mismatches
    rate = run.rates(data.test).get("hidden", float(run.encoded(data.test).x.mean()))
    return {"rate": f"{rate:.4f}", "accuracy": f"{100 * accuracy:.2f}", "mismatches": str(mismatches)}


def summary(rows: list[dict[str, str]]) -> str:
    """The README's table: mean and deviation over seeds."""
    lines = [f"| reservoir | rate asked | rate | {' | '.join(READOUTS)} |", "|---|---|---|" + "---|" * len(READOUTS)]
    for kind, rates in RATES.items():
        for asked in rates:
            found = [row for row in rows if (row["kind"], row["asked"]) == (kind, str(asked))]
            cells = [kind, f"{asked:g}", f"{statistics.mean(float(row['rate']) for row in found):.3f}"]
            for how in READOUTS:
                values = [float(row["accuracy"]) for row in found if row["readout"] == how]
                cells.append(f"{statistics.mean(values):.1f} ± {statistics.pstdev(values):.1f}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Runs what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to this number, exclusive")
    chosen = parser.parse_args()
    rows = []
    if CSV.exists():
        with CSV.open(newline="") as file:
            rows = list(csv.DictReader(file))
    done = {tuple(row[name] for name in KEY) for row in rows}
    keys = [
        (kind, rate, how, seed)
        for seed in range(chosen.seeds)
        for kind, rates in RATES.items()
        for rate in rates
        for how in READOUTS
    ]
    missing = [key for key in keys if tuple(map(str, key)) not in done]
    data = load_data(network("none", 0.0, "counts", 0), chosen.data)
    with Progress() as bars:
        for key in bars.track(missing):
            row = dict(zip(KEY, map(str, key), strict=True)) | measure(network(*key), data)
            rows.append(row)
            with CSV.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(sorted(rows, key=lambda row: [row[name] for name in KEY]))
    print(summary(rows))


if __name__ == "__main__":
    main()

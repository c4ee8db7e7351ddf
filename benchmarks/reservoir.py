"""A liquid state machine on spoken digits: how often its reservoir spikes, and what a linear readout can tell from it.

80-256R-10, 64 steps of send-on-delta: 256 neurons with 4-bit weights and 8-bit states that are drawn and never trained,
and a readout of 4-bit weights. One row a kind of reservoir, rate asked for, readout and seed: accuracy of the integer
network on the test set, the rate there, and mismatches of the interpreter and of the host's C with torch on the stored
vectors. The kinds: `mixed`, a fifth of the neurons inhibit; `runaway`, none does, and one spike is enough to set off
all; `none`, no reservoir: the readout sees the input itself. The readouts: ridge regression on how often each neuron
has spiked (`counts`) or on traces of that (`traces`), and 10 epochs of gradients, of traces (`gradients`).

Rows go to reservoir.csv as they come; what stands there is not run again. --data names the folder of recordings.
"""

import functools
import sys
import tempfile
from pathlib import Path
from typing import Any

from deployment import deploy
from study import SILENT, Rows, cell, numbers, parser, table

from quantal.qat.config import config_file
from quantal.qat.config.parts.network import Config
from quantal.qat.data.registry import Dataset
from quantal.qat.training.epochs import train_until
from quantal.qat.training.measure import accuracy_of, spike_rates
from quantal.qat.training.run import load_data
from quantal.qat.training.start import new_run

STUDY = Rows(
    Path(__file__).with_suffix(".csv"), ("kind", "asked", "readout", "seed"), ("rate", "accuracy", "mismatches")
)
KINDS: dict[str, dict[str, Any]] = {
    "none": {},
    "mixed": {"weights": {"gain": 0.5}},
    "runaway": {"inhibitory": 0.0, "weights": {"gain": 64.0}},
}
RATES = {
    "none": (0.0,),
    "mixed": (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8),
    "runaway": (0.98,),
}
READOUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "counts": ({"decay": 1.0}, {"method": "ridge"}),
    "traces": ({"decay": 0.95}, {"method": "ridge"}),
    "gradients": ({"decay": 0.95}, {"epochs": 10, "batch": 50}),
}
"""Options of the neuron, and of its training."""


def network(kind: str, rate: float, how: str, seed: int) -> Config:
    """The network of a row."""
    hidden = {"name": "hidden", "connection": "reservoir", "size": 256, "rate": rate, **KINDS[kind]}
    neuron, training = READOUTS[how]
    states = {"membrane": 16, "range": 16.0 if how == "gradients" else 2.0}
    readout = {"name": "readout", "size": 10, "neuron": {"kind": "li", **neuron}, "states": states}
    document = {
        "task": {"name": "speech", "channels": 40, "floor_db": 40},
        "encoder": {"kind": "delta", "steps": 64, "delta": 16},
        "layer": [readout] if kind == "none" else [hidden, readout],
        "training": {"seed": seed, **training},
    }
    return config_file.made(document, "reservoir.py")


@functools.cache
def dataset(data: Path) -> Dataset:
    """The recordings, read once a process."""
    return load_data(network("none", 0.0, "counts", 0), data)


def work(kind: str, rate: float, how: str, seed: int, folder_of_data: Path) -> list[tuple[object, ...]]:
    """One row."""
    config, data = network(kind, rate, how, seed), dataset(folder_of_data)
    with tempfile.TemporaryDirectory(prefix="quantal-") as folder:
        run = new_run(Path(folder) / "run", config, data)
        train_until(run, data, config.training.epochs, SILENT)
        accuracy = 100 * accuracy_of(run, data.test, SILENT)
        _, mismatches = deploy(run, Path(folder) / "build")
    found = spike_rates(run, data.test).get("hidden", float(run.encoded(data.test).x.mean()))
    return [(kind, rate, how, seed, f"{found:.4f}", f"{accuracy:.2f}", mismatches)]


def report() -> str:
    """A row a kind of reservoir and rate asked for: the rate on the test set, and accuracy by readout."""
    lines = []
    for kind, rates in RATES.items():
        for asked in rates:
            rows = [row for row in STUDY if (row["kind"], row["asked"]) == (kind, str(asked))]
            cells = (cell(row for row in rows if row["readout"] == how) for how in READOUTS)
            lines.append((kind, f"{asked:g}", f"{numbers(rows, 'rate')[0]:.3f}", *cells))
    return table(("reservoir", "rate asked", "rate", *READOUTS), lines)


def main() -> None:
    """Runs what is missing, then prints the table."""
    chosen = parser(__doc__).parse_args()
    missing = [
        (kind, rate, how, seed, chosen.data)
        for seed in range(chosen.seeds)
        for kind, rates in RATES.items()
        for rate in rates
        for how in READOUTS
        if (kind, rate, how, seed) not in STUDY
    ]
    failed = STUDY.run(work, missing, chosen.jobs) if chosen.data else 0
    print(report())
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

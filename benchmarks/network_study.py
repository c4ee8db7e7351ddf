"""What each kind of network costs on each task: in full precision, in 8 and in 4 bits, weights and states, over seeds.

A network is trained in full precision, and from there again, as long, with its weights (lsq) and states quantized:
evenly spaced at 8 bits, aligned at 4 (but on ECG), as quantizer_study.py advises. Rate is of all spiking neurons a
step; what can be deployed is exported, compared with torch bit for bit, and counted on an emulated Cortex-M4: bytes of
tables and state, instructions a step.

Rows go to network_study.csv as they come; what stands there is not run again. --data names a folder that holds the data
sets as fsdd, braille, nmnist_small and qtdb_ecg.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from deployment import deploy, instructions, size
from quantizer_study import SETTINGS, document
from study import SILENT, Rows, cell, numbers, parser, table

from quantal.qat.config import config_file
from quantal.qat.config.parts.fields import replace
from quantal.qat.config.parts.network import Config
from quantal.qat.config.parts.states import Aligned
from quantal.qat.config.precision import full_precision, with_precision
from quantal.qat.config.preset import preset
from quantal.qat.data.registry import Split
from quantal.qat.training.batches import batches_of
from quantal.qat.training.epochs import train_until
from quantal.qat.training.measure import accuracy_of
from quantal.qat.training.run import Run, load_data
from quantal.qat.training.start import Start, new_run

STUDY = Rows(
    Path(__file__).with_suffix(".csv"),
    ("task", "network", "bits", "seed"),
    ("accuracy", "rate", "bytes", "instructions", "mismatches"),
)
BITS = ("float", "8", "4")
FOLDERS = {task: SETTINGS[task].folder for task in ("speech", "braille", "nmnist")} | {"qtdb": "qtdb_ecg"}
PLANES = {"speech": [2, 40], "braille": [2, 3, 4], "nmnist": [2, 17, 17]}
NETWORKS: dict[str, dict[str, Any]] = {  # what the hidden layer has beside what the task's has
    "feed-forward": {"recurrent": False},
    "recurrent": {"recurrent": True},
    "diagonal": {"recurrent": "diagonal"},
    "adaptive": {"recurrent": True, "neuron": {"adaptation": 0.3}},
    "synaptic": {"recurrent": True, "neuron": {"synapse": 0.5}},
    "delays": {"recurrent": False, "delays": (0, 2, 5)},
    "convolution": {"recurrent": False},
}
ECG = ("feed-forward", "recurrent", "adaptive")
COUNTED_SAMPLES, RATE_SAMPLES = 1, 250


def network(task: str, name: str, seed: int) -> Config:
    """The configuration in full precision."""
    if task == "qtdb":
        config = preset("ecg")
        *hidden, readout = config.layers
        layers = [replace(layer, recurrent=name != "feed-forward") for layer in hidden]
        if name != "adaptive":
            layers = [replace(layer, neuron=replace(layer.neuron, adaptation=None)) for layer in layers]
        return full_precision(replace(config, layers=(*layers, readout), training=replace(config.training, seed=seed)))
    setting = SETTINGS[task]
    decay, slow = setting.decays
    own = {"weights": {"gain": setting.gain}, "neuron": {"decay": decay}}
    given = NETWORKS[name]
    hidden = {"name": "hidden", **setting.hidden, **own, **given, "neuron": own["neuron"] | given.get("neuron", {})}
    readout = {
        "name": "readout",
        "size": setting.classes,
        "neuron": {"kind": "li", "decay": slow},
        "states": {"range": 16.0},
    }
    layers = [hidden, readout]
    if name == "convolution":
        kernel = 3 if len(PLANES[task]) == 2 or task == "braille" else 5
        options = {
            "shape": PLANES[task],
            "kernel": [kernel],
            "stride": [2 if kernel == 5 else 1],
            "padding": [kernel // 2],
        }
        layers = [{"name": "planes", "connection": "conv", "channels": 8, **options, **own}, *layers]
    return full_precision(config_file.made(document(task, layers, seed), f"{task} {name}"))


def quantized(config: Config, bits: int) -> Config:
    """With so many bits in weights and states; a readout integrates in 16, as wide as a spike count.

    ECG: 14-bit states reach 32 thresholds, which is too far for few bits; and at its rate 4 bits diverge.
    """
    *hidden, readout = with_precision(config, weights=bits, states=bits).layers
    if config.task.name == "qtdb":
        reach = 2.0 if bits == 8 else 4.0
        hidden = [replace(layer, states=replace(layer.states, range=reach)) for layer in hidden]
        slower = config.training.rate / (1 if bits == 8 else 4)
        config = replace(config, training=replace(config.training, rate=slower))
    elif bits == 4:
        hidden = [replace(layer, states=Aligned(membrane=bits)) for layer in hidden]
    wide = replace(readout, states=replace(readout.states, membrane=16, range=16.0))
    return replace(config, layers=(*hidden, wide))


def work(task: str, name: str, seed: int, data: Path) -> list[tuple[str, ...]]:
    """The rows of a network and seed, one for each of BITS."""
    config, rows = network(task, name, seed), []
    given = load_data(config, data / FOLDERS[task])
    with tempfile.TemporaryDirectory(prefix="quantal-") as folder:
        full = new_run(Path(folder) / "float", config, given)
        for bits in BITS:
            run = full
            if bits != "float":
                run = new_run(Path(folder) / bits, quantized(config, int(bits)), given, Start(full, "mse"))
            train_until(run, given, config.training.epochs, SILENT)
            accuracy = 100 * accuracy_of(run, given.test, SILENT)
            deployed: tuple[object, ...] = ("", "", "")
            if bits != "float":
                build, mismatches = deploy(run, Path(folder) / f"build{bits}")
                deployed = size(build), instructions(build, COUNTED_SAMPLES), mismatches
            rate = rate_of(run, Split(given.test.x[:RATE_SAMPLES], given.test.y[:RATE_SAMPLES]))
            rows.append((task, name, bits, str(seed), f"{accuracy:.2f}", f"{rate:.4f}", *map(str, deployed)))
    return rows


@torch.no_grad()
def rate_of(run: Run, split: Split) -> float:
    """Spikes of a hidden neuron and step."""
    spikes, places = 0.0, 0
    for part in batches_of(split, 50):
        sent: list[torch.Tensor] = []
        run.network(run.tensors(part, run.exact_dtype())[0], sent=sent)
        spikes += sum(float(own.sum()) for own in sent)
        places += sum(own.numel() for own in sent)
    return spikes / places


def rows_of(task: str, name: str, bits: str) -> list[dict[str, str]]:
    """Those of all seeds."""
    return [row for row in STUDY if (row["task"], row["network"], row["bits"]) == (task, name, bits)]


def report() -> str:
    """A row a task and network: mean ± deviation over seeds, and of 4 bits rate, bytes and instructions."""
    lines = []
    for task, name in dict.fromkeys((row["task"], row["network"]) for row in STUDY):
        here = {bits: rows_of(task, name, bits) for bits in BITS}
        rate, size, counted = (numbers(here["4"], column)[0] for column in ("rate", "bytes", "instructions"))
        lines.append([task, name, *map(cell, here.values()), f"{rate:.3f}", f"{size:,.0f}", f"{counted:,.0f}"])
    head = ("task", "network", "full precision", "8/8 bits", "4/4 bits", "rate", "bytes", "instructions a step")
    return table(head, lines, words=2)


def deployed() -> str:
    """How many networks there are, and what came of those that were deployed."""
    compared = [int(row["mismatches"]) for row in STUDY if row["mismatches"]]
    return f"{len(list(STUDY))} networks, {len(compared)} of them deployed, {sum(compared)} mismatches"


def costs() -> str:
    """Points that quantization gives or takes: over the networks of a task on average, at worst and at best."""
    lines = []
    for task in dict.fromkeys(row["task"] for row in STUDY):
        for bits in BITS[1:]:
            found = {
                name: numbers(rows_of(task, name, bits))[0] - numbers(rows_of(task, name, BITS[0]))[0]
                for name in dict.fromkeys(row["network"] for row in STUDY if row["task"] == task)
            }
            worst, best = min(found, key=lambda n: found[n]), max(found, key=lambda n: found[n])
            ends = f"{found[worst]:+.1f}, {worst}", f"{found[best]:+.1f}, {best}"
            lines.append((task, f"{bits}/{bits}", f"{sum(found.values()) / len(found):+.1f}", *ends))
    return table(("task", "bits", "mean", "worst", "best"), lines, words=2)


def diagonals() -> str:
    """A diagonal recurrence beside a full one: points in full precision; bytes and instructions of 4 bits."""
    lines = []
    for task in FOLDERS:
        if rows_of(task, "diagonal", "4"):
            own, full = (rows_of(task, name, BITS[0]) for name in ("diagonal", "recurrent"))
            points = numbers(own)[0] - numbers(full)[0]
            few, all_of_them = (rows_of(task, name, "4") for name in ("diagonal", "recurrent"))
            shares = (100 * numbers(few, c)[0] / numbers(all_of_them, c)[0] for c in ("bytes", "instructions"))
            lines.append((task, f"{points:+.1f}", *(f"{share:.0f} %" for share in shares)))
    return table(("task", "points", "bytes", "instructions"), lines)


def main() -> None:
    """Runs what is missing, and prints the table."""
    options = parser(__doc__)
    options.add_argument("--task", action="append", choices=list(FOLDERS), help="only this one; may be repeated")
    chosen = options.parse_args()
    missing = [
        (task, name, seed, chosen.data)
        for seed in range(chosen.seeds)
        for task in chosen.task or FOLDERS
        for name in (ECG if task == "qtdb" else NETWORKS)
        if any((task, name, bits, seed) not in STUDY for bits in BITS)
    ]
    failed = STUDY.run(work, missing, chosen.jobs) if chosen.data else 0
    print("\n\n".join(show() for show in (report, costs, diagonals, deployed)))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

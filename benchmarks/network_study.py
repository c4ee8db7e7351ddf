"""What each kind of network costs on each task: in full precision, in 8 and in 4 bits, weights and states, over seeds.

A network is trained in full precision, and from there again, as long, with its weights (lsq) and states quantized:
evenly spaced at 8 bits, aligned at 4, as quantizer_study.py advises. Rate is of all spiking neurons a step; what can be
deployed is exported, compared with torch bit for bit, and counted on an emulated Cortex-M4: bytes of tables and state,
instructions a step.

Rows go to network_study.csv as they come; what stands there is not run again. --data names a folder that holds the data
sets as fsdd, braille, nmnist_small and qtdb_ecg. Without --data, what there is is printed as a table.
"""

import argparse
import csv
import multiprocessing
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from deployment import deploy, instructions, size
from quantizer_study import SETTINGS
from rich.progress import Progress

from qat import config_check, engine
from qat.cli import preset
from qat.config import Config, Layer, Training
from qat.config_graph import placed
from qat.data import Split
from qat.train import Run, Start, batches_of, load_data

CSV = Path(__file__).with_suffix(".csv")
KEY = ("task", "network", "bits", "seed")
COLUMNS = (*KEY, "accuracy", "rate", "bytes", "instructions", "mismatches")
BITS = ("float", "8", "4")
FOLDERS = {task: SETTINGS[task].folder for task in ("speech", "braille", "nmnist")} | {"qtdb": "qtdb_ecg"}
PLANES = {"speech": [2, 40], "braille": [2, 3, 4], "nmnist": [2, 17, 17]}
NETWORKS: dict[str, dict[str, Any]] = {  # what the hidden layer has beside what the task's has
    "feed-forward": {"recurrent": False},
    "recurrent": {"recurrent": True},
    "diagonal": {"recurrent": True, "recurrence": "diagonal"},
    "adaptive": {"recurrent": True, "adaptation": 0.3},
    "synaptic": {"recurrent": True, "synapse": "exponential", "synapse_decay": 0.5},
    "delays": {"recurrent": False, "delays": (0, 2, 5)},
    "convolution": {"recurrent": False},
}
ECG = ("feed-forward", "recurrent", "adaptive")
COUNTED_SAMPLES, RATE_SAMPLES = 1, 250


def network(task: str, name: str, seed: int, epochs: int | None) -> Config:
    """The configuration in full precision."""
    if task == "qtdb":
        config = preset("ecg")
        plain = {"feed-forward": {"recurrent": False}, "recurrent": {"adaptation": 0.0}, "adaptive": {}}[name]
        *hidden, readout = config.layers
        layers = [replace(layer, **{k: v if v else getattr(Layer, k) for k, v in plain.items()}) for layer in hidden]
        if name == "recurrent":
            layers = [replace(layer, adaptation_decay=Layer.adaptation_decay) for layer in layers]
        config = replace(config, layers=(*layers, readout), training=replace(config.training, seed=seed))
    else:
        setting = SETTINGS[task]
        planes = []
        if name == "convolution":
            kernel = (3,) if len(PLANES[task]) == 2 or task == "braille" else (5,)
            options = {"shape": tuple(PLANES[task]), "kernel": kernel, "stride": (2,) if kernel == (5,) else (1,)}
            options |= {"padding": (kernel[0] // 2,), "gain": setting.hidden["gain"], "decay": setting.hidden["decay"]}
            planes.append(Layer("planes", connection="conv", channels=8, **options))
        hidden = Layer("hidden", **(setting.hidden | NETWORKS[name]))
        readout = Layer("readout", setting.classes, "li", state_range=16.0, **setting.readout)
        layers = list(placed([*planes, hidden, readout], task))
        config = Config(setting.task, setting.encoder, tuple(layers), Training(**setting.training, seed=seed))
    if epochs is not None:
        config = replace(config, training=replace(config.training, epochs=epochs))
    config = config.with_layers(weights="float", states="float")
    config_check.check(config, f"{task} {name}")
    return config


def quantized(config: Config, bits: int) -> Config:
    """With so many bits in weights and states; a readout integrates in 16, as wide as a spike count.

    ECG: 14-bit states reach 32 thresholds, which few bits are too coarse for; and its rate, at which 4 bits diverge,
    is a quarter for them.
    """
    *hidden, readout = config.with_layers(weights=bits, states=bits).layers
    if config.task.name == "qtdb":
        hidden = [replace(layer, state_range=Layer.state_range) for layer in hidden]
    if bits == 4:
        hidden = [replace(layer, state_quantizer="aligned") for layer in hidden]
        share = 1 / 4 if config.task.name == "qtdb" else 1
        config = replace(config, training=replace(config.training, rate=share * config.training.rate))
    return replace(config, layers=(*hidden, replace(readout, states=16)))


def work(task: str, name: str, seed: int, data: Path, epochs: int | None) -> list[tuple[str, ...]]:
    """The rows of a network and seed, one for each of BITS."""
    torch.set_num_threads(1)
    engine.set_threads(1)
    config, rows, silent = network(task, name, seed, epochs), [], Progress(disable=True)
    given = load_data(config, data / FOLDERS[task])
    with tempfile.TemporaryDirectory(prefix="quantal-") as folder:
        full = Run.create(Path(folder) / "float", config, given)
        for bits in BITS:
            run = full
            if bits != "float":
                run = Run.create(Path(folder) / bits, quantized(config, int(bits)), given, Start(full, "mse"))
            run.train(given, config.training.epochs, silent)
            accuracy = 100 * run.accuracy(given.test, silent)
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


def read() -> list[dict[str, str]]:
    """The rows that there are."""
    if not CSV.exists():
        return []
    with CSV.open(newline="") as file:
        return list(csv.DictReader(file))


def write(rows: list[dict[str, str]]) -> None:
    """All rows, in order."""
    lines = sorted(",".join(row[name] for name in COLUMNS) for row in rows)
    CSV.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")


def show(rows: list[dict[str, str]]) -> None:
    """Prints mean ± deviation over seeds, and of 4 bits rate, bytes and instructions, in Markdown."""
    print("| task | network | full precision | 8/8 bits | 4/4 bits | rate | bytes | instructions a step |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for task, name in dict.fromkeys((row["task"], row["network"]) for row in rows):
        cells = []
        for bits in BITS:
            chosen = [row for row in rows if (row["task"], row["network"], row["bits"]) == (task, name, bits)]
            found = [float(row["accuracy"]) for row in chosen]
            spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
            cells.append(f"{statistics.mean(found):.1f}{spread}" if found else "–")
        of = {k: statistics.mean(float(row[k]) for row in chosen) for k in ("rate", "bytes", "instructions")}
        cells += [f"{of['rate']:.3f}", f"{of['bytes']:,.0f}", f"{of['instructions']:,.0f}"]
        print("| " + " | ".join((task, name, *cells)) + " |")
    deployed = [row for row in rows if row["mismatches"]]
    print(f"\n{len(deployed)} networks deployed, {sum(int(row['mismatches']) for row in deployed)} mismatches")


def main() -> None:
    """Runs what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--task", action="append", choices=list(FOLDERS), help="only this one; may be repeated")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to this number, exclusive")
    parser.add_argument("--epochs", type=int, help="in place of each task's own, to try it out")
    parser.add_argument("--jobs", type=int, default=2, help="networks trained side by side, a core each")
    chosen = parser.parse_args()
    rows = read()
    if chosen.data is None:
        show(rows)
        return
    done = {tuple(row[name] for name in KEY) for row in rows}
    missing = [
        (task, name, seed)
        for seed in range(chosen.seeds)
        for task in chosen.task or FOLDERS
        for name in (ECG if task == "qtdb" else NETWORKS)
        if any((task, name, bits, str(seed)) not in done for bits in BITS)
    ]
    failed = 0
    with Progress() as bars, ProcessPoolExecutor(chosen.jobs, multiprocessing.get_context("spawn")) as pool:
        bar = bars.add_task("networks", total=len(missing))
        pending = {pool.submit(work, *part, chosen.data, chosen.epochs): part for part in missing}
        for future in as_completed(pending):
            bars.advance(bar)
            try:
                found = future.result()
            except Exception as error:
                failed += 1
                print(f"{pending[future]}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                continue
            rows += [dict(zip(COLUMNS, row, strict=True)) for row in found if row[: len(KEY)] not in done]
            write(rows)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

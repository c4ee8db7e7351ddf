"""What the training of the preset `ecg` owes to each of its means: the preset with one of them at its default.

Prints a row each, of accuracies per step. What stands in --out is not run again, and a training that was cut off goes
on. --data names the folder of QTDB_train.mat.
"""

import argparse
from pathlib import Path

from presets import quantal

from quantal.export.base import files
from quantal.qat.config import config_file
from quantal.qat.config.parts.fields import replace
from quantal.qat.config.parts.network import Config
from quantal.qat.config.parts.training import Bptt
from quantal.qat.config.preset import preset

MEANS = ("damping", "decay_rate", "clip", "adaptation_spread")


def without(config: Config, name: str) -> Config:
    """The configuration with the field of [training] at its default, or with adaptations that are all alike."""
    if hasattr(config.training, name):
        return replace(config, training=replace(config.training, **{name: getattr(Bptt(), name)}))
    hidden, readout = config.layers
    alike = replace(hidden.neuron.adaptation, spread=1.0)
    return replace(config, layers=(replace(hidden, neuron=replace(hidden.neuron, adaptation=alike)), readout))


def accuracy(config: Config, out: Path, seed: int, data: Path) -> str:
    """The test accuracy of the configuration's run in the folder `out`, or that there is none."""
    network = out.with_suffix(".toml")
    files.write(network, config_file.dumps(config))
    start = ["--resume"] if out.exists() else ["--network", network, "--seed", seed]
    try:
        return " ".join(quantal("train", *start, "--data", data, "--out", out).split()[-2:])
    except SystemExit:  # train has said why: a loss or a parameter is not finite
        return "diverged"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/qtdb_ecg"))
    parser.add_argument("--out", type=Path, default=Path("build/ecg"))
    parser.add_argument("--seeds", type=int, default=2, help="seeds 0 to this number, exclusive")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    config = preset("ecg")
    for name, changed in {"nothing": config, **{name: without(config, name) for name in MEANS}}.items():
        said = [accuracy(changed, chosen.out / f"{name}-{s}", s, chosen.data) for s in range(chosen.seeds)]
        print(f"| without {name} | {' | '.join(said)} |", flush=True)


if __name__ == "__main__":
    main()

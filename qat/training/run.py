"""A training run is a folder, and the network in it.

It holds network.toml (all of the configuration), checkpoint.safetensors (parameters, optimizer, epoch; written last: a
folder without it is no whole run), metrics.jsonl (a line an epoch), samples.npz (encoded test samples, for the golden
vectors), and in teacher/ what it learns from beside the labels, where there is such a run. Several processes may share
a run (see parallel.py): all of them hold the same parameters after every step, and rank 0 alone writes. No other
process may train or read a run while it is trained (see lock.py).
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantal.export.base import files, reading
from quantal.export.base.errors import BadInput, shown
from quantal.qat.config import config_file
from quantal.qat.config.parts.network import Config
from quantal.qat.data import augmentation
from quantal.qat.data.encoding import encode
from quantal.qat.data.registry import Dataset, Split, load, takes_steps
from quantal.qat.lower import exact_dtype, lower
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.training import checkpoint, lock, objectives, parallel, saf
from quantal.qat.training.checkpoint import CHECKPOINT_FILE, CONFIG_FILE

METRICS_FILE, SAMPLES_FILE = "metrics.jsonl", "samples.npz"
TWIN_FOLDER, TEACHER_FOLDER = "full_precision", "teacher"
SAMPLES = 32


class Run:
    """A training run in the folder `path`: the network, its optimizer, and how many epochs are done.

    teacher: the run, if any, whose outputs it learns from beside the labels.
    """

    teacher: "Run | None" = None

    def __init__(self, path: Path, config: Config, channels: int, maximum: int):
        self.path, self.config = path, config
        self.network = SpikingNetwork(config, channels, maximum)
        if config.training.method.startswith("saf"):
            saf.hold_decays(self.network)
        self.epochs_done = 0
        self.begin_optimizer()

    def begin_optimizer(self) -> None:
        """Gives the parameters, as they are now, an optimizer that has seen no gradient."""
        learned = [(name, p) for name, p in self.network.named_parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for name, p in learned if name.endswith("decay") == decays], "share": share}
            for decays, share in ((False, 1.0), (True, self.config.training.decay_rate))
        ]
        self.optimizer = torch.optim.Adam(groups, fused=True)

    @classmethod
    def open(cls, path: Path) -> "Run":
        """The run in the folder `path`, at its last checkpoint. Raises BadInput, naming the broken file."""
        run = cls._without_teacher(path)
        if (path / TEACHER_FOLDER).exists():
            run.teacher = cls._without_teacher(path / TEACHER_FOLDER)  # whose own is not needed any more
        return run

    @classmethod
    def _without_teacher(cls, path: Path) -> "Run":
        if not path.is_dir():
            raise BadInput(f"{path}: no such run folder")
        if parallel.rank() == 0:
            lock.reading(path / CONFIG_FILE)
        config = config_file.load(path / CONFIG_FILE)
        files.check_whole(path, CHECKPOINT_FILE)
        run = cls(path, config, *checkpoint.channels_and_maximum(path / CHECKPOINT_FILE, config))
        run.epochs_done = checkpoint.restore(path / CHECKPOINT_FILE, run.network, run.optimizer)
        return run

    @classmethod
    @contextmanager
    def alone(cls, path: Path) -> Iterator[None]:
        """Nobody else reads or writes the run in the folder `path` while the block lasts. Raises BadInput if one does.

        A run that goes on is opened in such a block: what another process adds to it may not be lost.
        """
        with lock.writing(path / CONFIG_FILE) if parallel.rank() == 0 else nullcontext():
            parallel.wait()
            yield

    def write_new(self, data: Dataset) -> None:
        """Writes the run's folder, which must not exist yet, or must be empty."""
        with torch.no_grad():
            for layer in self.network.stack:
                layer.integers()  # states that cannot work are refused before anything is written
        self.exact_dtype()  # and so is a network without a proof
        first = self.encoded(Split(data.test.x[:SAMPLES], data.test.y[:SAMPLES]))
        parallel.wait()  # while one may still be refused, or look whether the folder is there, none is made
        if parallel.rank() == 0:
            memory = io.BytesIO()
            np.savez_compressed(memory, x=first.x, y=first.y)
            made = self.network_files() | {SAMPLES_FILE: memory.getvalue(), METRICS_FILE: ""}
            taught = {} if self.teacher is None else self.teacher.network_files()
            made |= {f"{TEACHER_FOLDER}/{name}": content for name, content in taught.items()}
            files.write_folder(self.path, made, last=CHECKPOINT_FILE)
        parallel.wait()

    def network_files(self) -> dict[str, bytes | str]:
        """The files that hold the network."""
        return {CONFIG_FILE: config_file.dumps(self.config), CHECKPOINT_FILE: self.checkpoint()}

    def checkpoint(self) -> bytes:
        """All that changes with an epoch, as a safetensors file."""
        return checkpoint.to_bytes(self.network, self.optimizer, self.epochs_done)

    def samples(self) -> Split:
        """The encoded test samples that the run keeps. Raises BadInput unless the network takes them."""
        path, inputs, maximum = self.path / SAMPLES_FILE, self.network.inputs, self.network.input_maximum
        stored = reading.npz(path)
        for name in ("x", "y"):
            if name not in stored:
                raise BadInput(f"{path}: {name}: missing")
        x, y = stored["x"], stored["y"]
        if x.dtype.kind not in "iu" or x.ndim != 3 or x.shape[2] != inputs or not x.size:
            raise BadInput(f"{path}: x: expected integers (samples, steps, {inputs}), got {x.dtype} {shown(x.shape)}")
        loss, outputs = self.config.training.loss, self.config.layers[-1].size
        count = x.shape[0]
        kind, shape = ("f", (count, outputs)) if loss == "regression" else ("iu", x.shape[: 1 + (loss == "steps")])
        if y.dtype.kind not in kind or y.shape != shape:
            what = "real targets" if kind == "f" else "integers"
            raise BadInput(f"{path}: y: expected {what} of shape {shape}, got {y.dtype} {shown(y.shape)}")
        reading.check_memory(x.nbytes + 8 * x.size, path, f"{count:,} samples")
        values = x.read()
        if values.min() < 0 or values.max() > maximum:
            raise BadInput(f"{path}: x: expected values 0..{maximum}, got {values.min()}..{values.max()}")
        return Split(values.astype(np.int64), y.read())

    def check(self, data: Dataset) -> None:
        """Raises BadInput unless the network fits the data: its classes, channels and values."""
        task, readout, network = self.config.task.name, self.config.layers[-1], self.network
        objectives.check(self.config.training.loss, data, task)
        augmentation.check(self.config.augmentation, data, task)
        if readout.size != data.classes:
            what = "targets" if self.config.training.loss == "regression" else "classes"
            raise BadInput(f"{readout.name}: size: expected {data.classes}, the {what} of {task}, got {readout.size}")
        channels = data.train.x.shape[-1]
        if channels != network.channels or data.maximum > network.maximum:
            raise BadInput(
                f"{self.path}: made for {network.channels} channels of values 0..{network.maximum}, "
                f"but the data of {task} has {channels} of 0..{data.maximum}"
            )

    def encoded(self, split: Split) -> Split:
        """The split with its inputs encoded: (samples, steps, inputs) integers."""
        e = self.config.encoder
        x = encode(e.kind, split.x, steps=e.steps, maximum=self.network.maximum, seed=e.seed, delta=e.delta)
        return Split(x, split.y)

    def tensors(self, split: Split, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The encoded inputs (batch, steps, inputs) in `dtype` and the labels, where the network is."""
        device = next(self.network.parameters()).device
        coded = self.encoded(split)
        return torch.from_numpy(coded.x).to(device, dtype), torch.from_numpy(coded.y).to(device)

    @property
    def quantized(self) -> bool:
        """True where weights and states are integers in every layer."""
        return all(layer.weights.quantized and layer.states.quantized for layer in self.config.weighted)

    def exact_dtype(self) -> torch.dtype:
        """The float in which the hard forward is exact; float32 for a network in full precision."""
        return exact_dtype(lower(self.network, "network")) if self.quantized else torch.float32


def load_data(config: Config, data: Path | None) -> Dataset:
    """The data set of the configuration's task, read from `data` where the task needs a path."""
    options = dict(config.task.options)
    if takes_steps(config.task.name):
        options["steps"] = config.encoder.steps
    return load(config.task.name, data, **options)

"""Training: BPTT over whole sequences with Adam, one atomic checkpoint an epoch, and the accuracy of the hard form.

A run is a folder: network.toml (all of the configuration), checkpoint.safetensors (parameters, optimizer, epoch),
metrics.jsonl (a line an epoch) and samples.npz (encoded test samples, for the golden vectors).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from export.errors import BadInput
from export.files import replaced
from qat import config as configuration
from qat.config import Config
from qat.data import Dataset, Split, load
from qat.encoding import encode
from qat.lower import exact_dtype, lower
from qat.network import SpikingNetwork, read_tensors

CONFIG_FILE, CHECKPOINT_FILE = "network.toml", "checkpoint.safetensors"
METRICS_FILE, SAMPLES_FILE = "metrics.jsonl", "samples.npz"
TWIN_FOLDER = "full_precision"
SAMPLES = 32
EVALUATION_BATCH = 250


class Run:
    """A training run in the folder `path`: the network, its optimizer, and how many epochs are done."""

    def __init__(self, path: Path, config: Config, channels: int, maximum: int):
        self.path, self.config = path, config
        self.network = SpikingNetwork(config, channels, maximum)
        self.optimizer = torch.optim.Adam([p for p in self.network.parameters() if p.requires_grad])
        self.epochs_done = 0

    @classmethod
    def create(cls, path: Path, config: Config, data: Dataset) -> "Run":
        """A new run in a folder that must not exist yet, or must be empty."""
        if config.layers[-1].size != data.classes:
            raise BadInput(
                f"{config.layers[-1].name}: size: expected {data.classes}, the classes of {config.task.name}, "
                f"got {config.layers[-1].size}"
            )
        run = cls(path, config, data.train.x.shape[-1], data.maximum)
        first = encoded(config, Split(data.test.x[:SAMPLES], data.test.y[:SAMPLES]), data.maximum)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with replaced(path / SAMPLES_FILE) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, x=first.x, y=first.y)
            with replaced(path / CONFIG_FILE) as temporary:
                temporary.write_text(config.dumps(), encoding="utf-8")
            (path / METRICS_FILE).write_text("")
            run.save()
        except OSError as error:
            raise BadInput(f"{path}: cannot be written ({error.strerror})") from None
        return run

    @classmethod
    def open(cls, path: Path) -> "Run":
        """The run in the folder `path`, at its last checkpoint. Raises BadInput, naming the broken file."""
        if not path.is_dir():
            raise BadInput(f"{path}: no such run folder")
        config = configuration.load(path / CONFIG_FILE)
        header = _header(path / CHECKPOINT_FILE)
        run = cls(path, config, int(header["channels"]), int(header["maximum"]))
        run._restore(path / CHECKPOINT_FILE)
        return run

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            state = self.optimizer.state.get(parameter, {})
            for key in ("exp_avg", "exp_avg_sq"):
                tensors[f"adam.{name}.{key}"] = state.get(key, torch.zeros_like(parameter.detach()))
            tensors[f"adam.{name}.step"] = state.get("step", torch.zeros(()))
        numbers = {"epochs_done": self.epochs_done, "channels": self.network.channels, "maximum": self.network.maximum}
        return tensors | {name: torch.tensor(value) for name, value in numbers.items()}

    def save(self) -> None:
        """Writes the checkpoint: whole or not at all."""
        with replaced(self.path / CHECKPOINT_FILE) as temporary:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in self._tensors().items()}, temporary)

    def _restore(self, path: Path) -> None:
        tensors = read_tensors(path, self._tensors())
        self.epochs_done = int(tensors["epochs_done"])
        self.network.restore(
            {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}, path
        )
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad and self.epochs_done:
                self.optimizer.state[parameter] = {
                    key: tensors[f"adam.{name}.{key}"].to(parameter.device)
                    if key != "step"
                    else tensors[f"adam.{name}.step"]
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }

    def train(self, data: Dataset, epochs: int, progress: Progress) -> None:
        """Trains until `epochs` epochs are done in all. Any split of the epochs over sittings gives the same result."""
        training = self.config.training
        metrics = self.path / METRICS_FILE
        done = metrics.read_text().splitlines()[: self.epochs_done] if metrics.exists() else []
        with replaced(metrics) as temporary:
            temporary.write_text("".join(line + "\n" for line in done))
        batches = -(-len(data.train.y) // training.batch)
        bar = progress.add_task(
            f"training {self.path.name}", total=epochs * batches, completed=self.epochs_done * batches
        )
        while self.epochs_done < epochs:
            rate = training.rate * 0.5 ** (self.epochs_done / training.halving)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            order = np.random.default_rng([training.seed, self.epochs_done]).permutation(len(data.train.y))
            loss_sum, right = 0.0, 0
            self.network.train()
            for chosen in np.array_split(order, batches):
                x, y = self.tensors(Split(data.train.x[chosen], data.train.y[chosen]), data.maximum)
                self.optimizer.zero_grad(set_to_none=True)
                logits = self.network.logits(x)
                loss = functional.cross_entropy(logits, y)
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                self.network.project()
                loss_sum += float(loss.detach()) * len(y)
                right += int((logits.argmax(dim=1) == y).sum())
                progress.advance(bar)
            self.epochs_done += 1
            line = {
                "epoch": self.epochs_done,
                "loss": loss_sum / len(order),
                "train_accuracy": right / len(order),
                "rate": rate,
            }
            if not np.isfinite(line["loss"]):
                raise BadInput(
                    f"{self.path}: the loss is not finite in epoch {self.epochs_done}: lower [training] rate"
                )
            with metrics.open("a") as file:
                file.write(json.dumps(line) + "\n")
            self.save()
            progress.update(
                bar, description=f"training {self.path.name}: train accuracy {100 * right / len(order):.2f} %"
            )

    def tensors(self, split: Split, maximum: int) -> tuple[Tensor, Tensor]:
        """The encoded inputs (batch, steps, inputs) in float32 and the labels, where the network is."""
        device = next(self.network.parameters()).device
        coded = encoded(self.config, split, maximum)
        return torch.from_numpy(coded.x).to(device, torch.float32), torch.from_numpy(coded.y).to(device)

    @property
    def quantized(self) -> bool:
        """True where weights and states are integers in every layer."""
        return all("float" not in (layer.weights, layer.states) for layer in self.config.layers)

    def exact_dtype(self) -> torch.dtype:
        """The float in which the hard forward is exact; float32 for a network in full precision."""
        return exact_dtype(lower(self.network, "network")) if self.quantized else torch.float32

    def accuracy(self, split: Split, maximum: int, progress: Progress) -> float:
        """The share of `split` that the hard form of the network classifies rightly."""
        dtype = self.exact_dtype()
        right = 0
        for part in progress.track(list(batches_of(split, EVALUATION_BATCH)), description="testing"):
            x, y = self.tensors(part, maximum)
            with torch.no_grad():
                output = self.network(x.to(dtype))[:, -1]
            right += int((output.cpu().numpy().argmax(axis=1) == y.cpu().numpy()).sum())
        return right / len(split.y)


def batches_of(split: Split, size: int) -> Iterator[Split]:
    """The split in order, `size` samples at a time."""
    for start in range(0, len(split.y), size):
        yield Split(split.x[start : start + size], split.y[start : start + size])


def encoded(config: Config, split: Split, maximum: int) -> Split:
    """The split with its inputs encoded: (samples, steps, inputs) integers."""
    e = config.encoder
    return Split(encode(e.kind, split.x, steps=e.steps, maximum=maximum, seed=e.seed, delta=e.delta), split.y)


def load_data(config: Config, data: Path | None) -> Dataset:
    """The data set of the configuration's task, read from `data` where the task needs a path."""
    options = dict(config.task.options)
    if config.task.name == "speech":
        options["steps"] = config.encoder.steps
    return load(config.task.name, data, **options)


def load_samples(run: Path) -> Split:
    """The encoded test samples that a run keeps."""
    path = run / SAMPLES_FILE
    try:
        with np.load(path, allow_pickle=False) as file:
            return Split(file["x"].astype(np.int64), file["y"].astype(np.int64))
    except Exception as error:  # a damaged archive raises whatever its layers raise
        raise BadInput(f"{path}: not a readable .npz file of samples ({type(error).__name__})") from None


def twin(config: Config) -> Config:
    """The same network in full precision."""
    return config.with_precision("float", "float")


def _header(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in ("channels", "maximum")}
    except (OSError, SafetensorError, ValueError) as error:
        raise BadInput(f"{path}: not a readable checkpoint ({str(error).splitlines()[0]})") from None

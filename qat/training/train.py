"""Training with Adam: one atomic checkpoint an epoch, and the accuracy of the hard form.

A run is a folder: network.toml (all of the configuration), checkpoint.safetensors (parameters, optimizer, epoch;
written last: a folder without it is no whole run), metrics.jsonl (a line an epoch), samples.npz (encoded test samples,
for the golden vectors), and in teacher/ what it learns from beside the labels, where there is such a run. Several
processes may share a run (see parallel.py): all of them hold the same parameters after every step, and rank 0 alone
writes. No other process may train or read a run while it is trained (see lock.py).
"""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quantal.export.base import files, reading
from quantal.export.base.errors import BadInput, shown
from quantal.qat.config import config_file
from quantal.qat.config.schema import Config, Training
from quantal.qat.data import augmentation
from quantal.qat.data.encoding import LIMIT, encode, encoded_channels
from quantal.qat.data.registry import Dataset, Split, load, takes_steps
from quantal.qat.lower import exact_dtype, lower
from quantal.qat.network.network import SpikingNetwork, read_tensors
from quantal.qat.network.reservoir import control_rates
from quantal.qat.training import lock, objectives, parallel, ridge, saf
from quantal.qat.training.bit_widths import allocate
from quantal.qat.training.diagnosis import findings
from quantal.qat.training.gradients import Lesson
from quantal.qat.training.warm_start import warm_start
from rich.progress import Progress
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

CONFIG_FILE, CHECKPOINT_FILE = "network.toml", "checkpoint.safetensors"
METRICS_FILE, SAMPLES_FILE = "metrics.jsonl", "samples.npz"
TWIN_FOLDER, TEACHER_FOLDER = "full_precision", "teacher"
SAMPLES = 32
CALIBRATION_SAMPLES = 128
SETTLED_AFTER = 3  # of the epochs one in so many goes before learned widths are settled
EVALUATION_BATCH = 250


@dataclass(frozen=True)
class Start:
    """What a run begins with: the parameters of another, and how scales and ranges are found (see warm_start.py)."""

    source: "Run"
    calibration: str


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
        self._begin_optimizer()

    def _begin_optimizer(self) -> None:
        learned = [(name, p) for name, p in self.network.named_parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for name, p in learned if name.endswith("decay") == decays], "share": share}
            for decays, share in ((False, 1.0), (True, self.config.training.decay_rate))
        ]
        self.optimizer = torch.optim.Adam(groups, fused=True)

    @classmethod
    def create(
        cls, path: Path, config: Config, data: Dataset, start: "Start | None" = None, teacher: "Run | None" = None
    ) -> "Run":
        """A new run in a folder that must not exist yet, or must be empty; from another's parameters with `start`."""
        run = cls(path, config, data.train.x.shape[-1], data.maximum)
        run.check(data)
        for flag, other in (("--from", start), ("--teacher", teacher)):
            if other is not None and config.training.method == "ridge":
                raise BadInput(f"{flag}: has no effect on ridge, which learns all that it learns from labels, at once")
        if config.training.loss == "regression":
            run.network.choose_targets(data.train.y)
        run._take_teacher(teacher)
        norms = {layer.norm for layer in config.layers} - {"none"}
        if parallel.size() > 1 and norms:
            raise BadInput(f"norm: {min(norms)} takes its moments of the whole batch, so it trains in one process")
        if start is not None or norms:
            x, _ = run.tensors(_calibration_sample(data.train), torch.float32)
            if start is None:
                run.network.begin_norms(x)
            else:
                start.source.check(data)
                warm_start(run.network, start.source.network, x, start.calibration, config.training.epochs == 0)
            run._begin_optimizer()
        if config.training.budget:  # before there are gradients, by the weights' errors alone
            matrices = [matrix for layer in run.network.stack for matrix in layer.matrices]
            allocate(run.network, {matrix: torch.ones_like(matrix) for matrix in matrices}, config.training.budget)
        run._prepare(data.train)
        run.write_new(data)
        return run

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
            made = self._files() | {SAMPLES_FILE: memory.getvalue(), METRICS_FILE: ""}
            taught = {} if self.teacher is None else self.teacher._files()
            made |= {f"{TEACHER_FOLDER}/{name}": content for name, content in taught.items()}
            files.write_folder(self.path, made, last=CHECKPOINT_FILE)
        parallel.wait()

    def _prepare(self, split: Split) -> None:
        """Sets the rates of reservoirs, and learns by ridge regression where that is the method: before any epoch."""
        reservoirs = [layer for layer in self.network.stack if layer.config.reservoir]
        if reservoirs:
            x, _ = self.tensors(_calibration_sample(split), torch.float64)
            control_rates(reservoirs, x, self.network.ops)
        if self.config.training.method == "ridge":
            dtype = self.exact_dtype()
            ridge.fit(
                self.network,
                lambda: (self.tensors(part, dtype) for part in batches_of(split, EVALUATION_BATCH)),
                self.config.training.ridge,
            )

    def _take_teacher(self, teacher: "Run | None") -> None:
        """Raises BadInput unless it sees the same samples and says the same classes."""
        own = self.config
        if teacher is not None:
            if own.training.loss != "last":
                raise BadInput(f"--teacher: says a class a sample, which loss = {own.training.loss!r} does not learn")
            for name, mine, other in (
                ("encoder", own.encoder, teacher.config.encoder),
                ("inputs", self.network.inputs, teacher.network.inputs),
                ("loss", own.training.loss, teacher.config.training.loss),
                ("classes", own.layers[-1].size, teacher.config.layers[-1].size),
            ):
                if mine != other:
                    raise BadInput(f"--teacher: {name}: expected {mine}, as the network's own, got {other}")
        for field in ("teacher_share", "teacher_temperature"):
            if teacher is None and getattr(own.training, field) != getattr(Training, field):
                raise BadInput(f"training: {field}: has no effect without --teacher")
        self.teacher = teacher

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
        run = cls(path, config, *_header(path / CHECKPOINT_FILE, config))
        run._restore(path / CHECKPOINT_FILE)
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

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            state = self.optimizer.state.get(parameter, {})
            for key in ("exp_avg", "exp_avg_sq"):
                tensors[f"adam.{name}.{key}"] = state.get(key, torch.zeros_like(parameter.detach()))
            tensors[f"adam.{name}.step"] = state.get("step", torch.zeros(()))
        numbers = {"epochs_done": self.epochs_done, "channels": self.network.channels, "maximum": self.network.maximum}
        return tensors | {name: torch.tensor(value) for name, value in numbers.items()}

    def _files(self) -> dict[str, bytes | str]:
        """The files that hold the network."""
        return {CONFIG_FILE: self.config.dumps(), CHECKPOINT_FILE: self.checkpoint()}

    def checkpoint(self) -> bytes:
        """All that changes with an epoch, as a safetensors file."""
        return to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in self._tensors().items()})

    def _restore(self, path: Path) -> None:
        tensors = read_tensors(path, self._tensors())
        for name, tensor in tensors.items():
            if name.endswith(("epochs_done", ".step", ".exp_avg_sq")) and bool((tensor < 0).any()):
                raise BadInput(f"{path}: {name}: expected no negative numbers")
        self.epochs_done = int(tensors["epochs_done"])
        self.network.restore(
            {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}, path
        )
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad and self.epochs_done:
                self.optimizer.state[parameter] = {
                    # A copy: a file that is mapped into memory cannot be replaced on Windows.
                    key: tensors[f"adam.{name}.{key}"].to("cpu" if key == "step" else parameter.device, copy=True)
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }

    def train(self, data: Dataset, epochs: int, progress: Progress) -> None:
        """Trains until `epochs` epochs are done in all. Any split of the epochs over sittings gives the same result."""
        if self.config.training.method == "ridge" and epochs:
            raise BadInput(f"{self.path}: epochs: ridge takes none, expected 0, got {epochs}")
        with self.alone(self.path):
            if parallel.rank() == 0:
                self._drop_lines()
            self._train(data, epochs, progress)

    def _train(self, data: Dataset, epochs: int, progress: Progress) -> None:
        training = self.config.training
        batches = -(-len(data.train.y) // training.batch)
        bar = progress.add_task(
            f"training {self.path.name}", total=epochs * batches, completed=self.epochs_done * batches
        )
        while self.epochs_done < epochs:
            rate = training.rate * 0.5 ** (self.epochs_done / training.halving)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["share"]
            if training.budget and self.epochs_done == max(1, training.epochs // SETTLED_AFTER):
                squares = {parameter: state["exp_avg_sq"] for parameter, state in self.optimizer.state.items()}
                allocate(self.network, squares, training.budget)
            dtype = self.exact_dtype()
            order = np.random.default_rng([training.seed, self.epochs_done]).permutation(len(data.train.y))
            split = augmentation.augmented(data, self.config, self.epochs_done)
            loss_sum, tallies = 0.0, objectives.nothing(self.network)
            self.network.anneal(self.epochs_done)
            self.network.train()
            for chosen in np.array_split(order, batches):
                added, *here = self.gradients(split, chosen, dtype)
                if training.clip:
                    torch.nn.utils.clip_grad_norm_(self.network.parameters(), training.clip)
                self.optimizer.step()
                self.network.project()
                loss_sum += added * len(chosen)
                tallies = [sum(pair) for pair in zip(tallies, here, strict=True)]
                progress.advance(bar)
            self.network.eval()
            loss_sum, *tallies = parallel.total(loss_sum, *tallies)
            measures = objectives.measured(tallies, data.train.y)
            self.epochs_done += 1
            line = {
                "epoch": self.epochs_done,
                "loss": loss_sum / len(order),
                **{f"train_{name}": value for name, value in measures.items()},
                "rate": rate,
            }
            # A NaN in a hidden layer can hide from the loss: no spike comes of it.
            finite = all(bool(torch.isfinite(parameter).all()) for parameter in self.network.parameters())
            if not (np.isfinite(line["loss"]) and finite):
                raise BadInput(
                    f"{self.path}: the loss or a parameter is not finite in epoch {self.epochs_done}: "
                    "lower [training] rate"
                )
            if parallel.rank() == 0:
                self._keep(line)
            said = objectives.worded(measures, training.loss)
            progress.update(bar, description=f"training {self.path.name}: train {said}")

    def _drop_lines(self) -> None:
        """Takes the metrics of epochs that are not in the checkpoint, of a process that was killed."""
        path = self.path / METRICS_FILE
        found = reading.content(path, reading.LARGE_TEXT) if path.is_file() else b""
        done = b"".join(found.splitlines(keepends=True)[: self.epochs_done])
        if done != found:
            files.write(path, done)

    def _keep(self, metrics: dict[str, float]) -> None:
        """Writes the epoch's metrics and the checkpoint: both, or neither."""
        try:
            with files.appended(self.path / METRICS_FILE, json.dumps(metrics) + "\n"):
                files.write(self.path / CHECKPOINT_FILE, self.checkpoint())
        except BadInput as error:
            raise BadInput(f"{error}; --resume goes on after epoch {self.epochs_done - 1}") from None

    def gradients(self, split: Split, chosen: np.ndarray, dtype: torch.dtype) -> tuple[float, ...]:
        """Gives the parameters the gradients of the mean loss on the `chosen` samples, which the processes share.

        Returns what this process's part adds to that mean, and the tally of its part (see objectives.py).
        """
        self.optimizer.zero_grad(set_to_none=True)
        own, added, tally = parallel.part(chosen), 0.0, objectives.nothing(self.network)
        if len(own):
            teacher = None if self.teacher is None else self.teacher.network
            added, tally = Lesson(self.network, teacher, len(chosen)).learn(*self.tensors(split.take(own), dtype))
        parallel.add_up_gradients([parameter for parameter in self.network.parameters() if parameter.requires_grad])
        return added, *tally

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

    def tensors(self, split: Split, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The encoded inputs (batch, steps, inputs) in `dtype` and the labels, where the network is."""
        device = next(self.network.parameters()).device
        coded = self.encoded(split)
        return torch.from_numpy(coded.x).to(device, dtype), torch.from_numpy(coded.y).to(device)

    @property
    def quantized(self) -> bool:
        """True where weights and states are integers in every layer."""
        return all("float" not in (layer.weights, layer.states) for layer in self.config.layers)

    def exact_dtype(self) -> torch.dtype:
        """The float in which the hard forward is exact; float32 for a network in full precision."""
        return exact_dtype(lower(self.network, "network")) if self.quantized else torch.float32

    def accuracy(self, split: Split, progress: Progress) -> float:
        """The share of the labels of `split` that the hard form of the network gets right."""
        return self.measure(split, progress)["accuracy"]

    def measure(self, split: Split, progress: Progress) -> dict[str, float]:
        """How well the hard form of the network does on `split`: accuracy, or rmse and r2."""
        dtype = self.exact_dtype()
        tallies = objectives.nothing(self.network)
        own = list(batches_of(split, EVALUATION_BATCH))[parallel.rank() :: parallel.size()]
        for part in progress.track(own, description="testing"):
            x, y = self.tensors(part, dtype)
            with torch.no_grad():  # in float64, in which no two integers become one logit
                logits = self.network.answers(x).double() * self.network.logit_unit(x.shape[1])
            here = objectives.tally(self.network, logits, y)
            tallies = [sum(pair) for pair in zip(tallies, here, strict=True)]
        return objectives.measured(parallel.total(*tallies), split.y)

    def findings(self, split: Split) -> list[str]:
        """What is wrong with the network, if anything, on some samples of `split`, a line each (see diagnosis.py)."""
        some = _calibration_sample(split)
        return findings(self.network, self.tensors(some, self.exact_dtype())[0], some.y)

    def rates(self, split: Split) -> dict[str, float]:
        """How often a neuron of each reservoir spikes in a step, on average over `split`, by the layer's name."""
        names = [layer.config.name for layer in self.network.stack if layer.config.reservoir]
        if not names:
            return {}
        spikes, dtype = torch.zeros(len(names), dtype=torch.float64), self.exact_dtype()
        for part in batches_of(split, EVALUATION_BATCH):
            sent: list[Tensor] = []
            with torch.no_grad():
                self.network(self.tensors(part, dtype)[0], sent=sent)
            spikes += torch.stack([own.double().mean((0, 2)).sum().cpu() for own in sent[: len(names)]])
        return dict(zip(names, (spikes / len(split.y)).tolist(), strict=True))


def _calibration_sample(split: Split) -> Split:
    """CALIBRATION_SAMPLES of the split, evenly spread, or all."""
    every = max(1, len(split.y) // CALIBRATION_SAMPLES)
    return Split(split.x[::every][:CALIBRATION_SAMPLES], split.y[::every][:CALIBRATION_SAMPLES])


def batches_of(split: Split, size: int) -> Iterator[Split]:
    """The split in order, `size` samples at a time."""
    for start in range(0, len(split.y), size):
        yield Split(split.x[start : start + size], split.y[start : start + size])


def load_data(config: Config, data: Path | None) -> Dataset:
    """The data set of the configuration's task, read from `data` where the task needs a path."""
    options = dict(config.task.options)
    if takes_steps(config.task.name):
        options["steps"] = config.encoder.steps
    return load(config.task.name, data, **options)


def twin(config: Config) -> Config:
    """The same network in full precision."""
    return config.with_layers(weights="float", states="float")


def _header(path: Path, config: Config) -> tuple[int, int]:
    """The network's channels and maximum: what has to be known to build it and to read the rest.

    A dense layer's weights on the input alone say how many channels there are, and so bound the memory that the network
    takes; windows have their shapes in the configuration.
    """
    places = [
        i
        for i, (layer, sources) in enumerate(zip(config.layers, config.sources, strict=True))
        if sources == ("input",) and layer.connection == "dense"
    ]
    with reading.opened(path):
        pass  # it is a file that can be read; safetensors opens it by its name
    with reading.damaged(path, "an intact checkpoint"), safe_open(path, "pt") as file:
        numbers = {name: file.get_tensor(name) for name in ("channels", "maximum")}
        shapes = {i: file.get_slice(f"network.layers.{i}.weight").get_shape() for i in places}
    for name, number in numbers.items():
        if number.shape or number.dtype != torch.int64 or not 1 <= number <= LIMIT:
            raise BadInput(f"{path}: {name}: expected an integer 1..{LIMIT}")
    channels, maximum = (int(number) for number in numbers.values())
    inputs = encoded_channels(config.encoder.kind, channels)
    for i, shape in shapes.items():
        expected = config.layers[i].size, inputs * len(config.layers[i].delays)
        if tuple(shape) != expected:
            raise BadInput(f"{path}: network.layers.{i}.weight: expected {expected}, got {shown(tuple(shape))}")
    weights, size = sum(config.weight_counts(inputs).values()), path.stat().st_size
    if 4 * weights > size:
        raise BadInput(f"{path}: holds {size:,} bytes, the {weights:,} weights of {CONFIG_FILE} have more")
    if "input" in {name for sources in config.sources for name in sources} and not places:
        bound = [layer.window.size for layer in config.layers if layer.window is not None]
        if inputs > max(bound, default=0):
            raise BadInput(f"{path}: channels: expected at most {max(bound, default=0)}, which a window sees")
    return channels, maximum

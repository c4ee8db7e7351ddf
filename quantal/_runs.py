"""The public functions of runs, which need torch."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from rich.progress import Progress

from quantal.export.base import files
from quantal.export.base.errors import BadInput, listed, named, shown
from quantal.export.base.names import check_network
from quantal.export.build import Build
from quantal.export.ir.network import Network
from quantal.qat import reference
from quantal.qat.config import config_file, rules
from quantal.qat.config.parts.fields import replace
from quantal.qat.config.parts.network import Config
from quantal.qat.config.parts.training import Ridge
from quantal.qat.data.registry import Dataset, Split
from quantal.qat.lower import lower as lower_network
from quantal.qat.training import sitting
from quantal.qat.training.checkpoint import CHECKPOINT_FILE
from quantal.qat.training.measure import measure as measure_on
from quantal.qat.training.run import Run
from quantal.qat.training.run import load_data as load_task
from quantal.qat.training.start import Start
from quantal.qat.training.start import new_run as start_run
from quantal.qat.training.warm_start import METHODS

Configuration = str | Path | Config
PARAMETERS = (
    *("weight", "recurrent", "bias", "threshold", "decay", "synapse_decay", "adaptation", "adaptation_decay"),
    *("norm.gain", "norm.mean", "norm.variance", "psp.gain", "psp.moment"),
)
"""What `parameters` gives of a layer, as far as the layer has it."""


def load_data(config: Configuration, path: str | Path | None = None) -> Dataset:
    """The data set of the configuration's task, read from `path`, a file or a folder, where the task needs one.

    Own arrays come as task "npz": `np.savez("own.npz", x=x, y=y)` with x (samples, channels) or (samples, steps,
    channels) of integers from 0, and y (samples,) of classes, (samples, steps) of classes of each step, or as `target`
    (samples, outputs) of real numbers. Gives a Dataset: `train` and `test`, each with `x` and `y`; `classes`; and
    `maximum`, the largest x.

    Raises BadInput where the configuration or the data are malformed.

    >>> data.train.x.shape, data.test.x.shape, data.classes, data.maximum
    ((1442, 64), (355, 64), 10, 16)
    >>> np.savez("own.npz", x=np.arange(20).reshape(10, 2), y=np.arange(10) // 5)
    >>> quantal.load_data(real.replace("digits", "npz").replace("10", "2"), "own.npz").test.x
    array([[ 8,  9],
           [18, 19]], dtype=uint8)
    """
    return load_task(_config(config), None if path is None else Path(path))


def new_run(
    path: str | Path,
    config: Configuration,
    data: Dataset,
    start: Run | None = None,
    method: str = "mse",
    teacher: Run | None = None,
) -> Run:
    """Builds the network of the configuration, untrained, and writes its run in the folder `path`, new or empty.

    start: a run of the same network, whose parameters it begins with; scales and ranges are then calibrated on training
    samples by `method` (see `quantize`). teacher: a run from whose outputs it learns beside the labels.

    Raises BadInput where the configuration does not fit the data or the other runs, or the folder is not free.

    >>> fresh = quantal.new_run("fresh", coarse, data)
    >>> fresh.epochs_done, fresh.config.layers[0].size
    (0, 16)
    """
    files.check_free(Path(path))
    if method not in METHODS:
        raise BadInput(f"method: expected one of {', '.join(METHODS)}, got {shown(method)}")
    begin = None if start is None else Start(start, method)
    try:
        return start_run(Path(path), _config(config), data, begin, teacher)
    except BadInput as error:  # which names an option of the command line
        line = str(error).replace("--from", "start", 1).replace("--calibration", "method", 1)
        raise BadInput(line.removeprefix("--")) from None


def load_run(path: str | Path) -> Run:
    """The run in the folder `path`, at its last checkpoint.

    Its attributes: `path`, `config`, `epochs_done`, and `network`, a torch module: x (batch, steps, inputs) of integers
    as float64 → the readout's output (batch, steps, classes), integers too where weights and states are quantized.

    Raises BadInput where a file is missing or malformed, or the run is being trained.

    >>> quantal.load_run("full").epochs_done
    1
    """
    return Run.open(Path(path))


def save_run(run: Run) -> None:
    """Writes the checkpoint of the run in its folder: its parameters as they are now. `train` saves each epoch itself.

    Raises BadInput where the network, as it is now, cannot be proven to fit 32 bits, or the folder cannot be written.

    >>> run.network.eval() is run.network
    True
    >>> quantal.save_run(run)
    """
    run.exact_dtype()
    with Run.alone(run.path):
        files.write(run.path / CHECKPOINT_FILE, run.checkpoint())


def parameters(run: Run) -> dict[str, np.ndarray]:
    """The real parameters of the run's layers, copies, by name: "hidden.weight" is the weight of the layer hidden.

    rows are a layer's neurons, or the channels of a convolution. Each layer has those that its configuration asks for:

    - `weight` (rows, columns): a column for each value of each of `inputs`, for each of `delays`; of a convolution one
      for each input channel of its group, row and column of the kernel.
    - `recurrent` (rows, rows), [to, from]; (rows, 1) where it is diagonal.
    - `bias` (rows,), added to the current in each step.
    - `threshold` (rows,) or (1,), above 0. Where states have a table there is none: rows are scaled instead.
    - `decay` (rows,) or (1,): the share of the membrane that a step leaves, 0 to 1 - 2^-decay_bits.
    - `synapse_decay` and `adaptation_decay`, the same of the current and of the raised threshold.
    - `adaptation` (rows,): by how much a spike raises the threshold, from 0.
    - `norm.gain` (rows,), `norm.mean` and `norm.variance` (rows,) or (): of the current.
    - `psp.gain` and `psp.moment` (columns,), or one for each input channel of a convolution: of what comes in.

    Weights, biases, thresholds and adaptations are in one unit: the membrane's. Raises nothing.

    >>> {name: values.shape for name, values in quantal.parameters(run).items()}
    ... # doctest: +NORMALIZE_WHITESPACE
    {'hidden.weight': (16, 64), 'hidden.recurrent': (16, 16), 'hidden.bias': (16,), 'hidden.threshold': (16,),
     'hidden.decay': (1,), 'readout.weight': (10, 16), 'readout.bias': (10,), 'readout.decay': (1,)}
    """
    state = run.network.state_dict()
    return {name: state[key].cpu().numpy().copy() for name, key in _keys(run).items()}


def set_parameters(run: Run, values: Mapping[str, ArrayLike]) -> None:
    """Sets some of the parameters: names and shapes as `parameters` has them. All of them, or none; nothing is saved.

    Scales and ranges of quantized weights and states stay as they were: to have them found anew, set the parameters of
    a run in full precision, and `quantize` it.

    Raises BadInput where a name, a shape or a value is not one that the network takes.

    >>> weight = np.linspace(-1, 1, 16 * 64).reshape(16, 64)
    >>> quantal.set_parameters(full, {"hidden.weight": weight, "hidden.decay": [0.75]})
    >>> float(quantal.parameters(full)["hidden.weight"][15, 63])
    1.0
    """
    keys, before = _keys(run), {name: tensor.clone() for name, tensor in run.network.state_dict().items()}
    after = dict(before)
    for name, value in values.items():
        if name not in keys:
            raise BadInput(f"{named(str(name))}: no parameter of this run, expected one of {listed(keys)}")
        array, shape = np.asarray(value), tuple(before[keys[name]].shape)
        if array.dtype.kind not in "iuf" or array.shape != shape:
            raise BadInput(f"{name}: expected real numbers {shape}, got {array.dtype} {shown(array.shape)}")
        after[keys[name]] = torch.as_tensor(array.astype(np.float32)).to(before[keys[name]])
        if not bool(torch.isfinite(after[keys[name]]).all()):
            raise BadInput(f"{name}: expected finite numbers of 32 bits")
    try:
        run.network.restore(after, run.path)
        run.network.project()
        now = run.network.state_dict()
        for name in values:
            if bool((odd := now[keys[name]] != after[keys[name]]).any()):
                least, most = float(after[keys[name]][odd][0]), float(now[keys[name]][odd][0])
                raise BadInput(f"{name}: {least:g} is beyond its range, which ends at {most:g}")
    except BadInput:
        run.network.load_state_dict(before)
        raise


def quantize(run: Run, path: str | Path, config: Configuration, data: Dataset, method: str = "mse") -> Run:
    """Quantizes a trained run without training it again, and writes the result in the folder `path`, new or empty.

    config: the same network with the weights and states that are wanted. Scales of weights and ranges of states are
    calibrated on up to 128 samples of `data.train`; method: "mse" (least squared error), "minmax", "percentile",
    "hindsight" (a running average of the range over batches) or "gpfq" (which also chooses codes one by one).
    `train` may go on with the result.

    Raises BadInput where the networks differ in more than their precision, or the folder is not free.

    >>> small = quantal.quantize(full, "small", coarse, data, method="minmax")
    >>> small.quantized, small.epochs_done
    (True, 0)
    """
    wanted = _config(config)
    if not isinstance(wanted.training, Ridge):
        wanted = replace(wanted, training=replace(wanted.training, epochs=0))
    return new_run(path, wanted, data, run, method)


def train(run: Run, data: Dataset, epochs: int | None = None) -> dict[str, float]:
    """Trains the run until `epochs` epochs are done in all, its configuration's unless given; saves it after each.

    Gives what `measure` gives. Equal runs, data and epochs give equal parameters, in one sitting or in several.

    Raises BadInput where the data do not fit, the loss is not finite, or another process uses the run.

    >>> sorted(quantal.train(run, data, epochs=1))
    ['accuracy']
    """
    run.check(data)
    if epochs is not None and (not isinstance(epochs, int) or epochs < 0):
        raise BadInput(f"epochs: expected an integer from 0, got {shown(epochs)}")
    return sitting.train(run, data, run.config.training.epochs if epochs is None else epochs, _quiet())


def measure(run: Run, data: Dataset) -> dict[str, float]:
    """How well the hard form of the run, the integers that would be exported, does on `data.test`.

    Gives {"accuracy": the share of labels that are right}, or of real targets {"rmse": in their unit, "r2": …}.

    Raises BadInput where the data do not fit.

    >>> 0 <= quantal.measure(run, data)["accuracy"] <= 1
    True
    """
    run.check(data)
    return measure_on(run, data.test, _quiet())


def encode(run: Run, x: ArrayLike) -> np.ndarray:
    """Data as the network takes them at each step, by the encoder of the run.

    x: integers (samples, channels) or (samples, steps, channels), 0 to the maximum of the data that the run was made
    for. Gives integers (samples, steps, inputs).

    Raises BadInput where x has another shape or other values.

    >>> quantal.encode(run, data.test.x[:5]).shape
    (5, 4, 64)
    """
    values = np.asarray(x)
    if values.ndim < 2 or values.shape[-1] != run.network.channels:
        raise BadInput(f"x: expected (samples, …, {run.network.channels} channels), got {shown(values.shape)}")
    return run.encoded(Split(values, np.zeros(len(values), np.int64))).x


def lower(run: Run, name: str) -> Network:
    """The integer network of the run as it is now, proven to fit 32 bits, under a C name.

    Gives a Network: `layers`, each with `name`, `size`, `ops`, `states` and `weights`, integer codes by name, "fan_in"
    (rows, columns) and "recurrent"; `inputs`, and `input_lo` and `input_hi`, what they may be.

    Raises BadInput where a layer is in full precision, or something cannot be proven: layer and neuron are named.

    >>> network = quantal.lower(run, "digits")
    >>> codes = network.layers[0].weights["fan_in"]
    >>> codes.shape, codes.dtype, int(abs(codes).max()) <= 7
    ((16, 64), dtype('int8'), True)
    """
    return lower_network(run.network, check_network(name, "name")).network


def export_run(run: Run, path: str | Path, name: str | None = None) -> Build:
    """Writes the build of the run in the folder `path`, new or empty, under a C name: the task's unless given.

    Its golden vectors are what torch's hard forward does on the test samples that the run keeps. `lower`, `trace` and
    `save_build` do the same on samples of your own.

    Raises BadInput as `lower` does, and where the folder is not free.

    >>> build = quantal.export_run(run, "again", "mine")
    >>> build.header.name, sorted(build.vectors()[1])
    ('mine.h', ['hidden.spike', 'hidden.u', 'output', 'readout.u'])
    """
    reference.export_run(run, Path(path), name)
    return Build.open(Path(path))


def _config(given: Configuration) -> Config:
    if isinstance(given, str):
        return config_file.loads(given, "config")
    if isinstance(given, Path):
        return config_file.load(given)
    rules.refuse(given, "config")
    return given


def _keys(run: Run) -> dict[str, str]:
    """The names of parameters, and what the checkpoint calls them."""
    state = run.network.state_dict()
    layers = [(f"{layer.name}.", f"layers.{number}.") for number, layer in enumerate(run.config.layers)]
    return {
        f"{public}{name}": f"{private}{name}"
        for public, private in layers
        for name in PARAMETERS
        if f"{private}{name}" in state
    }


def _quiet() -> Progress:
    return Progress(disable=True)

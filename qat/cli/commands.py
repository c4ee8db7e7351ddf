"""The commands that need torch: train, prune, export, demo, and the reference of `verify --run`."""

from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import click
import torch
from msgspec.structs import replace
from quantal.export.base import portable
from quantal.export.base.errors import BadInput, ExecutorError
from quantal.export.base.files import check_free
from quantal.export.base.names import check_network
from quantal.export.base.toolchain import CORES
from quantal.export.build import Build, write_build
from quantal.export.cli import main as export_cli
from quantal.export.cli.main import progress
from quantal.export.network_file import digest
from quantal.export.run import EXECUTORS
from quantal.export.verify.vectors import record_sizes
from quantal.qat.config import config_file, rules
from quantal.qat.config.parts.network import Config
from quantal.qat.config.parts.training import Ridge
from quantal.qat.config.precision import STATE_BITS, WEIGHT_BITS, full_precision, with_precision
from quantal.qat.data.registry import Dataset, Split
from quantal.qat.engine import cpu
from quantal.qat.lower import exact_dtype, lower
from quantal.qat.methods import pruning
from quantal.qat.network.trace import hard_trace
from quantal.qat.quantizers.states import STATE_QUANTIZERS
from quantal.qat.quantizers.weights import WEIGHT_QUANTIZERS
from quantal.qat.training import objectives, parallel
from quantal.qat.training.batches import batches_of
from quantal.qat.training.epochs import train_until
from quantal.qat.training.measure import findings, measure, spike_rates
from quantal.qat.training.run import TWIN_FOLDER, Run, load_data
from quantal.qat.training.start import Start, new_run
from quantal.qat.training.warm_start import METHODS

PRESETS = ("digits", "mnist", "speech", "ecg")


def preset(name: str) -> Config:
    """The network that quantal ships under that name."""
    path = resources.files("quantal.qat.config") / "presets" / f"{name}.toml"
    return config_file.loads(path.read_text("utf-8"), f"preset {name}")


def _precision(choices: tuple[Any, ...]) -> Callable[[click.Context, click.Parameter, str | None], int | str | None]:
    def parse(_: click.Context, __: click.Parameter, value: str | None) -> int | str | None:
        known = {str(choice): choice for choice in choices}
        if value is not None and value not in known:
            raise click.BadParameter(f"expected one of {', '.join(known)}, got {value!r}")
        return None if value is None else known[value]

    return parse


class Shared(click.Command):
    """A command that torchrun may start in several processes; where it fails, one of them says so."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Reads the arguments."""
        with parallel.one_voice():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        with parallel.joined(), parallel.one_voice():
            return super().invoke(ctx)


def _say(line: str) -> None:
    """Prints the line once, however many processes there are."""
    if parallel.rank() == 0:
        click.echo(line)


def _say_peak_memory() -> None:
    """The most memory that was resident since this process began; of several processes, in the one that took most.

    Where the system does not say, nothing.
    """
    here = parallel.largest(portable.peak_memory())
    there = parallel.largest(torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)
    peaks = [f"{where}{peak / 2**20:.0f} MiB" for where, peak in (("", here), ("on the GPU ", there)) if peak]
    if peaks:
        _say(f"peak memory {', '.join(peaks)}" + (" a process" if parallel.size() > 1 else ""))


def _alone(command: str) -> None:
    if parallel.size() > 1:
        raise BadInput(f"{command}: runs in one process; start it without torchrun")


@click.command(cls=Shared)
@click.option("--task", help="digits (comes along), or another, which --data has.")
@click.option("--data", type=click.Path(path_type=Path), help="The data set: a folder or a file, as the task needs.")
@click.option("--network", type=click.Path(path_type=Path), help="The network and its training, as TOML.")
@click.option("--preset", "preset_name", type=click.Choice(PRESETS), help="A network that is known to work.")
@click.option("--weights", callback=_precision(WEIGHT_BITS), help="Bits of every weight: 1 to 8, float.")
@click.option("--states", callback=_precision(STATE_BITS), help="Bits of every state: 1 to 16, float.")
@click.option("--weight-quantizer", type=click.Choice(tuple(WEIGHT_QUANTIZERS)), help="That of every weight.")
@click.option("--state-quantizer", type=click.Choice(tuple(STATE_QUANTIZERS)), help="That of every state.")
@click.option("--from", "source", type=click.Path(path_type=Path), help="Begin with the parameters of this run.")
@click.option(
    "--calibration", type=click.Choice(METHODS), help="With --from, how scales of lsq and ranges are found [mse]."
)
@click.option("--teacher", type=click.Path(path_type=Path), help="Learn from the outputs of this run too.")
@click.option("--epochs", type=click.IntRange(0, 100_000), help="Epochs in all; 0 with --from only quantizes.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Everything random follows from it.")
@click.option("--compare", is_flag=True, help="Train the same network in full precision beside it.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out from its last checkpoint.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The run's folder.")
def train(
    task: str | None,
    data: Path | None,
    network: Path | None,
    preset_name: str | None,
    weights: int | str | None,
    states: int | str | None,
    weight_quantizer: str | None,
    state_quantizer: str | None,
    source: Path | None,
    calibration: str | None,
    teacher: Path | None,
    epochs: int | None,
    seed: int | None,
    compare: bool,
    resume: bool,
    out: Path,
) -> None:
    """Train a network with its weights and states quantized, and say what it gets right in its integer form.

    Several processes share a run, each its part of every batch, where torchrun starts them:

    \b
        torchrun --nproc-per-node 2 --no-python quantal train ...
    """
    chosen = {
        "--task": task,
        "--network": network,
        "--preset": preset_name,
        "--weights": weights,
        "--states": states,
        "--weight-quantizer": weight_quantizer,
        "--state-quantizer": state_quantizer,
        "--from": source,
        "--calibration": calibration,
        "--teacher": teacher,
        "--seed": seed,
    }

    def alone() -> None:
        """Until the command ends, no other reads or writes the run."""
        click.get_current_context().with_resource(Run.alone(out))

    if calibration is not None and source is None:
        raise BadInput("--calibration: needs --from, the run to calibrate on")
    if resume:
        given = [flag for flag, value in chosen.items() if value is not None]
        if given:
            raise BadInput(
                f"{given[0]}: --resume takes the network from the run; only --epochs and --data may be given"
            )
        alone()
        run = Run.open(out)
        config, dataset = run.config, load_data(run.config, data)
        run.check(dataset)
    else:
        check_free(out)
        config = with_precision(
            _configuration(task, network, preset_name),
            weights=weights,
            states=states,
            weight_quantizer=weight_quantizer,
            state_quantizer=state_quantizer,
        )
        if epochs and isinstance(config.training, Ridge):
            raise BadInput("--epochs: ridge takes none: it learns the readout at once")
        if epochs is not None and not isinstance(config.training, Ridge):
            config = replace(config, training=replace(config.training, epochs=epochs))
        if seed is not None:
            config = replace(config, training=replace(config.training, seed=seed))
        rules.refuse(config, str(network or preset_name or task))
        dataset = load_data(config, data)
        start = None if source is None else Start(Run.open(source), calibration or "mse")
        run = new_run(out, config, dataset, start, None if teacher is None else Run.open(teacher))
        alone()
    for note in dataset.notes:
        _say(note)
    cpu.set_threads(max(1, cpu.threads() // parallel.neighbours()))
    epochs = config.training.epochs if epochs is None else epochs
    measures = train_run(run, dataset, epochs)
    full = None
    if compare:
        folder = out / TWIN_FOLDER
        there = resume and folder.exists()
        other = Run.open(folder) if there else new_run(folder, full_precision(config), dataset, None, run.teacher)
        full = train_run(other, dataset, epochs)
    for finding in findings(run, dataset.test) if parallel.rank() == 0 else ():
        _say(finding)
    _say_peak_memory()
    for name, rate in spike_rates(run, dataset.test).items():
        _say(f"spikes of {name}: {rate:.4f} a neuron and step")
    if full is not None:
        _say(f"full precision test {objectives.worded(full, config.training.loss)}")
    _say(f"test {objectives.worded(measures, config.training.loss)}")


def _configuration(task: str | None, network: Path | None, preset_name: str | None) -> Config:
    if network is not None and preset_name is not None:
        raise BadInput("--network: cannot go with --preset")
    if network is not None:
        config = config_file.load(network)
    elif (preset_name or task) in PRESETS:
        config = preset(str(preset_name or task))
    elif task is None:
        raise BadInput("--task: name a task, a --preset or a --network")
    else:
        raise BadInput(f"--network: task {task!r} has no preset; describe the network in a TOML file")
    if task is not None and task != config.task.name:
        raise BadInput(f"--task: {task!r} does not go with a network made for {config.task.name!r}")
    return config


def train_run(run: Run, data: Dataset, epochs: int) -> dict[str, float]:
    """Trains the run until `epochs` epochs are done; how well its hard form does on the test set."""
    torch.set_num_threads(1)  # at these sizes a second thread costs more than it gives, and sums in another order
    bars = progress()
    bars.disable |= parallel.rank() > 0
    with bars:
        train_until(run, data, epochs, bars)
        return measure(run, data.test, bars)


def _kept(_: click.Context, __: click.Parameter, value: str) -> int | float:
    """A count, or with a point in it a share of (0, 1]."""
    try:
        number = float(value) if "." in value else int(value)
    except ValueError:
        number = 0
    if number <= 0 or (isinstance(number, float) and number > 1):
        raise click.BadParameter(f"expected a share up to 1.0, such as 0.5, or a count from 1, got {value!r}")
    return number


@click.command(cls=Shared)
@click.argument("source", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--keep", required=True, callback=_kept, help="Neurons that are left: a share, as 0.5, or a count.")
@click.option(
    "--layer", "layers", multiple=True, help="Only this layer; may be repeated. All but the readout, if none."
)
@click.option("--data", type=click.Path(path_type=Path), help="The run's data set.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The pruned run's folder.")
def prune(source: Path, keep: int | float, layers: tuple[str, ...], data: Path | None, out: Path) -> None:
    """Take neurons out of a run's layers, so that the others stand for them: spectral pruning.

    The pruned run is to be trained again, best quantized only then:

    \b
        quantal prune full --keep 0.5 --out pruned
        quantal train --from pruned --network pruned/network.toml --weights 4 --states 4 --out run
    """
    _alone("prune")
    check_free(out)
    run = Run.open(source)
    kept = pruning.sizes(run.config, keep, layers)
    dataset = load_data(run.config, data)
    with progress() as bars:
        pruned, cuts = pruning.prune(run, dataset, kept, out, bars)
        measures = measure(pruned, dataset.test, bars)
    for layer in run.config.layers:
        if layer.name in cuts:
            share = 100 * cuts[layer.name].share
            click.echo(f"{layer.name}: {kept[layer.name]} of {layer.size} neurons, {share:.1f} % of the spikes' power")
    click.echo(f"test {objectives.worded(measures, run.config.training.loss)}")


@click.command(cls=Shared)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The build's folder.")
@click.option("--name", help="The network's name in C and in file names; the task's by default.")
def export(run: Path, out: Path, name: str | None) -> None:
    """Turn a run into integers: network.json, C header, simulator, ONNX, test program and golden vectors.

    The golden vectors are what torch's hard forward does on the test samples that the run keeps.
    """
    _alone("export")
    check_free(out)
    opened = Run.open(run)
    export_run(opened, out, opened.config.task.name.replace("-", "_") if name is None else name)
    _list_files(out)


def export_run(run: Run, out: Path, name: str) -> None:
    """Writes the build of `run` in the folder `out`, under the C name `name`."""
    check_network(name, "--name")
    samples = run.samples()
    with progress() as bars:
        bars.add_task(f"exporting {name}", total=None)
        lowered = lower(run.network, name)
        write_build(out, lowered, samples.x, hard_trace(run.network, samples.x, exact_dtype(lowered)))


def _list_files(folder: Path) -> None:
    for file in sorted(folder.iterdir()):
        if file.is_file():
            click.echo(f"{file.stat().st_size:>12,} {file}")


def reference(
    build: Build, run: Path, data: Path | None, samples: int | None, size: int
) -> tuple[Callable[[], tuple[int, Any]], tuple[str, ...]]:
    """Torch's own forward, for `verify --run`: on the run's samples, or on the first of the task's test set.

    Also a complaint, where the run is not what the build was made from.
    """
    opened = Run.open(run)
    lowered = lower(opened.network, build.network.name)
    complaints: tuple[str, ...] = ()
    if digest(lowered) != digest(build.network):
        complaints = (f"{run}: this run lowers to another network than the one in {build.path}",)
        if record_sizes(lowered) != record_sizes(build.network) or lowered.inputs != build.network.inputs:
            raise ExecutorError(complaints[0])
    dtype = exact_dtype(lowered)
    coded = data is None and samples is None
    if coded:
        chosen = opened.samples()
    else:
        dataset = load_data(opened.config, data)
        opened.check(dataset)
        count = samples or len(dataset.test.y)
        if count > len(dataset.test.y):
            raise BadInput(f"--samples: the test set has {len(dataset.test.y)} samples, not {count}")
        chosen = Split(dataset.test.x[:count], dataset.test.y[:count])

    def batches() -> Iterator[Any]:
        for part in batches_of(chosen, size):
            x = (part if coded else opened.encoded(part)).x
            yield x, hard_trace(opened.network, x, dtype)

    return lambda: (len(chosen.y), batches()), complaints


@click.command(cls=Shared)
@click.option("--out", default="quantal-demo", show_default=True, type=click.Path(path_type=Path), help="A new folder.")
def demo(out: Path) -> None:
    """Train on real data, export, verify everywhere, count the cost: the whole way, in minutes.

    A recurrent network reads handwritten digits with 4-bit weights and 8-bit states.
    """
    _alone("demo")
    check_free(out)
    config = preset("digits")
    dataset = load_data(config, None)

    def say(command: str) -> None:
        click.secho(f"$ quantal {command}", bold=True)

    say(f"train --task digits --out {out}/run")
    run = new_run(out / "run", config, dataset)
    measures = train_run(run, dataset, config.training.epochs)
    _say_peak_memory()
    click.echo(f"test {objectives.worded(measures, config.training.loss)}")
    say(f"export {out}/run --out {out}/build")
    export_run(run, out / "build", config.task.name)
    _list_files(out / "build")
    build = Build.open(out / "build")
    say(f"verify {out}/build")
    reports: list[dict[str, Any]] = []
    reference = export_cli.reference_for(build, None, None, None)
    verified = export_cli.run_executors(build, tuple(EXECUTORS), *reference, reports)
    rows: list[Any] = []
    with export_cli.answer(verified):
        export_cli.show_reports(reports)
        say(f"cost {out}/build")
        counted = export_cli.measure_costs(build, list(CORES), rows)
    with export_cli.answer(counted):
        export_cli.show_costs(rows)

"""`quantal train`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from quantal.export.base.errors import BadInput
from quantal.export.base.files import check_free
from quantal.export.cli.output import progress
from quantal.qat.cli.common import Shared, say, say_peak_memory
from quantal.qat.config import config_file, rules
from quantal.qat.config.parts.fields import replace
from quantal.qat.config.parts.network import Config
from quantal.qat.config.parts.training import Ridge
from quantal.qat.config.precision import STATE_BITS, WEIGHT_BITS, full_precision, with_precision
from quantal.qat.config.preset import PRESETS, preset
from quantal.qat.data.registry import Dataset
from quantal.qat.quantizers.states import STATE_QUANTIZERS
from quantal.qat.quantizers.weights import WEIGHT_QUANTIZERS
from quantal.qat.training import objectives, parallel, sitting
from quantal.qat.training.measure import findings, spike_rates
from quantal.qat.training.run import TWIN_FOLDER, Run, load_data
from quantal.qat.training.start import Start, new_run
from quantal.qat.training.warm_start import METHODS


def _precision(choices: tuple[Any, ...]) -> Callable[[click.Context, click.Parameter, str | None], int | str | None]:
    def parse(_: click.Context, __: click.Parameter, value: str | None) -> int | str | None:
        known = {str(choice): choice for choice in choices}
        if value is not None and value not in known:
            raise click.BadParameter(f"expected one of {', '.join(known)}, got {value!r}")
        return None if value is None else known[value]

    return parse


@click.command(cls=Shared)
@click.option("--task", help="digits (comes along), or one that --data has: see the README.")
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
        say(note)
    epochs = config.training.epochs if epochs is None else epochs
    measures = _train(run, dataset, epochs)
    full = None
    if compare:
        folder = out / TWIN_FOLDER
        there = resume and folder.exists()
        other = Run.open(folder) if there else new_run(folder, full_precision(config), dataset, None, run.teacher)
        full = _train(other, dataset, epochs)
    for finding in findings(run, dataset.test) if parallel.rank() == 0 else ():
        say(finding)
    say_peak_memory()
    for name, rate in spike_rates(run, dataset.test).items():
        say(f"spikes of {name}: {rate:.4f} a neuron and step")
    if full is not None:
        say(f"full precision test {objectives.worded(full, config.training.loss)}")
    say(f"test {objectives.worded(measures, config.training.loss)}")


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


def _train(run: Run, data: Dataset, epochs: int) -> dict[str, float]:
    """Trains the run, with progress bars of one process alone; how well its hard form does on the test set."""
    bars = progress()
    bars.disable |= parallel.rank() > 0
    with bars:
        return sitting.train(run, data, epochs, bars)

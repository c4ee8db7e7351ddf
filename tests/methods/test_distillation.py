"""Knowledge distillation: the loss, what is refused, and that a run keeps its teacher."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.progress import Progress

from quantal.export.base.errors import BadInput
from quantal.qat.cli.train import train
from quantal.qat.config import config_file
from quantal.qat.config.parts.network import Config, Direct, Task
from quantal.qat.config.parts.training import Bptt
from quantal.qat.config.precision import full_precision
from quantal.qat.data.registry import Dataset, Split
from quantal.qat.training.epochs import batch_gradients, train_until
from quantal.qat.training.run import Run, load_data
from quantal.qat.training.start import new_run
from support.layers import a_layer, replace
from support.messages import one_line

SILENT = Progress(disable=True)


def configured(**training: float) -> Config:
    layers = a_layer("hidden", 16, gain=4.0), a_layer("readout", 10, neuron="li", state_range=16.0)
    chosen = Bptt(epochs=2, rate=5e-3, **training)  # type: ignore[arg-type]
    return Config(task=Task(name="digits"), encoder=Direct(steps=5), layers=layers, training=chosen)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_data(configured(), None)


@pytest.fixture(scope="module")
def teacher(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = new_run(tmp_path_factory.mktemp("runs") / "teacher", full_precision(configured()), data)
    train_until(run, data, 2, SILENT)
    return run


def test_the_loss_is_the_labels_and_the_teachers(data: Dataset, teacher: Run, tmp_path: Path) -> None:
    chosen, losses = np.arange(40), {}
    for share in (0.0, 0.3, 1.0):
        config = configured(teacher_share=share, teacher_temperature=3.0)
        run = new_run(tmp_path / f"run{share}", config, data, teacher=teacher)
        losses[share], *_ = batch_gradients(run, data.train, chosen, torch.float32)
    x, y = run.tensors(Split(data.train.x[:40], data.train.y[:40]), torch.float32)
    with torch.no_grad():
        own, wanted = (network.logits(x).double() for network in (run.network, teacher.network))
    p, q = (torch.softmax(logits / 3, 1) for logits in (wanted, own))
    labels = -torch.log_softmax(own, 1)[torch.arange(40), y].mean()
    theirs = 9 * (p * (p / q).log()).sum(1).mean()
    expected = {share: float((1 - share) * labels + share * theirs) for share in losses}
    assert losses == pytest.approx(expected, rel=1e-4)
    assert abs(losses[0.0] - losses[1.0]) > 0.1


def test_a_run_keeps_its_teacher_and_goes_on_to_the_same_bytes(data: Dataset, teacher: Run, tmp_path: Path) -> None:
    whole = new_run(tmp_path / "whole", configured(), data, teacher=teacher)
    train_until(whole, data, 2, SILENT)
    train_until(new_run(tmp_path / "halves", configured(), data, teacher=teacher), data, 1, SILENT)
    train_until(Run.open(tmp_path / "halves"), data, 2, SILENT)
    written = [(tmp_path / name / "checkpoint.safetensors").read_bytes() for name in ("whole", "halves")]
    assert written[0] == written[1]
    alone = new_run(tmp_path / "alone", configured(), data)
    train_until(alone, data, 2, SILENT)
    assert alone.teacher is None
    assert (tmp_path / "alone" / "checkpoint.safetensors").read_bytes() != written[0]


def test_what_a_teacher_cannot_be_is_refused(data: Dataset, teacher: Run, tmp_path: Path) -> None:
    other = replace(configured(), encoder=Direct(steps=4))
    with pytest.raises(BadInput) as error:
        new_run(tmp_path / "run", other, data, teacher=teacher)
    one_line(error, "--teacher", "encoder")
    for field in ("teacher_share", "teacher_temperature"):
        with pytest.raises(BadInput) as error:
            new_run(tmp_path / "run", configured(**{field: 0.25}), data)
        one_line(error, field)
    assert not (tmp_path / "run").exists()


def test_the_command_takes_a_teacher(teacher: Run, tmp_path: Path) -> None:
    (tmp_path / "net.toml").write_text(config_file.dumps(configured()))
    given = ["--network", str(tmp_path / "net.toml"), "--teacher", str(teacher.path), "--epochs", "1"]
    done = CliRunner().invoke(train, [*given, "--out", str(tmp_path / "run")], catch_exceptions=False)
    assert done.exit_code == 0
    assert Run.open(tmp_path / "run").teacher is not None

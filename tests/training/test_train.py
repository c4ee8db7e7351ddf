"""Training: one seed, one result, however often it is cut off; everything learns; what is said is what will run."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from quantal.export import network_file
from quantal.export.ir import interpret
from quantal.export.ir.ops import MatVec
from quantal.qat.config import config_file
from quantal.qat.config.precision import with_precision
from quantal.qat.data.registry import load
from quantal.qat.lower import lower
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.quantizers.states import STATE_QUANTIZERS
from quantal.qat.quantizers.weights import WEIGHT_QUANTIZERS
from quantal.qat.training import epochs
from quantal.qat.training.run import Run
from support.commands import MAIN, NETWORK, Done, contents, quantal, refused, succeed
from support.runs import RESULT, interrupted, results, said, train, write_sequences


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty but for net.toml: a small recurrent network for the digits."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.toml").write_text(NETWORK)
    return tmp_path


# ---- one seed, one result


def test_a_seed_makes_a_run_repeatable() -> None:
    train("a", "--seed", 7, "--epochs", 2)
    train("b", "--seed", 7, "--epochs", 2)
    train("c", "--seed", 8, "--epochs", 2)
    assert contents(Path("a")) == contents(Path("b"))
    assert set(contents(Path("a"))) == {*RESULT, "network.toml"}
    same = [name for name, content in contents(Path("c")).items() if content == contents(Path("a"))[name]]
    assert same == ["samples.npz"]


def test_resuming_goes_on_as_if_never_stopped() -> None:
    whole = said(train("whole", "--epochs", 4))
    train("parts", "--epochs", 2)
    assert said(succeed("train", "--resume", "--epochs", 4, "--out", "parts")) == whole
    assert results("parts") == results("whole")


def test_a_run_cut_off_within_an_epoch_resumes_to_the_same_result() -> None:
    whole = said(train("whole", "--epochs", 3))
    batches = -(-len(load("digits", None).train.y) // 64)
    interrupted("--network", "net.toml", "--epochs", 3, "--out", "cut", after=batches + batches // 2)
    assert len(Path("cut/metrics.jsonl").read_text().splitlines()) == 1
    assert said(succeed("train", "--resume", "--out", "cut")) == whole
    assert contents(Path("cut")) == contents(Path("whole"))


def test_a_killed_run_resumes_to_the_same_result() -> None:
    count = 12
    whole = said(train("whole", "--epochs", count))
    command = [sys.executable, "-c", MAIN, "train", "--network", "net.toml", "--epochs", str(count), "--out", "killed"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        metrics = Path("killed/metrics.jsonl")
        while process.poll() is None and not (metrics.exists() and len(metrics.read_bytes().splitlines()) >= 2):
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert len(metrics.read_bytes().splitlines()) < count
    assert said(succeed("train", "--resume", "--out", "killed")) == whole
    assert results("killed") == results("whole")


def test_metrics_beyond_the_checkpoint_are_dropped() -> None:
    """A run may be cut off between the two."""
    train("whole", "--epochs", 3)
    train("cut", "--epochs", 2)
    with Path("cut/metrics.jsonl").open("ab") as file:
        file.write(b'{"epoch": 3, "loss": 9\n\xff')
    succeed("train", "--resume", "--epochs", 3, "--out", "cut")
    assert results("cut") == results("whole")


DAMAGED = {  # of two epochs' metrics, the second line
    "deep": b"[" * 200_000,
    "infinite": b'{"epoch": 1e999}',
    "long": b'{"epoch": ' + b"1" * 200_000 + b"}",
    "large": b'{"epoch": 2, "loss": 1' + b"0" * 400 + b"}",
    "again": b'{"epoch": 1, "loss": 0.5}',
    "words": b'{"epoch": 2, "loss": "low"}',
    "none": b'{"epoch": 2, "loss": NaN}',
    "nothing": b"",
}


@pytest.mark.parametrize("line", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_line_of_metrics_is_named_before_anything_is_trained(line: bytes) -> None:
    train("run", "--epochs", 2)
    metrics = Path("run/metrics.jsonl")
    first, _ = metrics.read_bytes().splitlines()
    metrics.write_bytes(first + b"\n" + line + b"\n")
    refused(Path(), "train --resume --epochs 3 --out run", "run/metrics.jsonl: line 2: expected the metrics of epoch 2")


def test_a_line_of_metrics_that_is_gone_or_has_no_end_is_no_fault() -> None:
    train("run", "--epochs", 2)
    metrics = Path("run/metrics.jsonl")
    metrics.write_bytes(metrics.read_bytes().splitlines()[1])
    succeed("train", "--resume", "--epochs", 3, "--out", "run")
    assert [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()] == [2, 3]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with a name")
def test_metrics_that_are_no_file_are_refused_before_anything_is_trained() -> None:
    train("run", "--epochs", 1)
    metrics = Path("run/metrics.jsonl")
    metrics.unlink()
    os.mkfifo(metrics)
    with mock.patch.object(epochs, "batch_gradients", side_effect=AssertionError):
        done = quantal("train", "--resume", "--epochs", 2, "--out", "run")
    assert (done.code, done.err) == (2, "quantal: run/metrics.jsonl: cannot be read (not a regular file)\n")


@pytest.mark.parametrize("after", [20, 47, 48, 85], ids=["run", "test", "first of twin", "twin"])
def test_a_comparison_cut_off_resumes_to_the_same_result(after: int) -> None:
    arguments = ("--network", "net.toml", "--epochs", 2, "--compare")
    whole = said(succeed("train", *arguments, "--out", "whole"))
    interrupted(*arguments, "--out", "cut", after=after)
    assert said(succeed("train", "--resume", "--compare", "--out", "cut")) == whole
    assert contents(Path("cut")) == contents(Path("whole"))


def test_resuming_a_finished_run_changes_nothing() -> None:
    whole = said(train("run", "--epochs", 2))
    before = contents(Path("run"))
    assert said(succeed("train", "--resume", "--out", "run")) == whole
    assert contents(Path("run")) == before


# ---- what a run says


def test_metrics_are_one_json_object_a_line() -> None:
    Path("net.toml").write_text(NETWORK + "rate = 0.004\nhalving = 1")
    train("run", "--epochs", 3)
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["rate"] for line in lines] == [0.004, 0.002, 0.001]
    assert all(0 <= line["train_accuracy"] <= 1 and np.isfinite(line["loss"]) for line in lines)


@pytest.mark.parametrize("encoder", ["direct", "latency", "rate"])
def test_the_printed_accuracy_is_that_of_the_integer_network(encoder: str) -> None:
    Path("net.toml").write_text(NETWORK.replace("[encoder]", f'[encoder]\nkind = "{encoder}"'))
    last = train("run", "--epochs", 2).out.splitlines()[-1]
    run, test = Run.open(Path("run")), load("digits", None).test
    output = interpret.run(lower(run.network, "digits").network, run.encoded(test).x)["output"]
    accuracy = 100 * np.mean(interpret.classify(output) == test.y)
    assert last == f"test accuracy {accuracy:.2f} %"


def test_a_comparison_prints_the_accuracy_in_full_precision_too() -> None:
    lines = said(train("run", "--compare")).splitlines()
    assert [re.sub(r"\d+\.\d\d", "N", line) for line in lines] == [
        "full precision test accuracy N %",
        "test accuracy N %",
    ]
    twin = Run.open(Path("run/full_precision")).config
    assert twin == with_precision(Run.open(Path("run")).config, weights="float", states="float")


def test_the_digits_are_learned_in_three_epochs() -> None:
    accuracy = said(succeed("train", "--preset", "digits", "--epochs", 3, "--out", "run"))
    # 94.9 to 97.5 with seeds 0 to 19; chance gives 10
    assert float(re.fullmatch(r"test accuracy (.*) %\n", accuracy)[1]) > 70


# ---- what is trained


def test_every_parameter_learns() -> None:
    Path("net.toml").write_text(NETWORK.replace('neuron = "li"', 'neuron = "count"'))
    train("run")
    after = load_file("run/checkpoint.safetensors")
    before = SpikingNetwork(config_file.load(Path("run/network.toml")), 64, 16).state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[f"network.{name}"])}
    learned = {"weight", "bias", "decay", "threshold", "unit_gain"}
    assert moved == {f"layers.0.{name}" for name in {*learned, "recurrent"}} | {f"layers.1.{name}" for name in learned}


@pytest.mark.parametrize(("weights", "states"), list(zip(range(1, 9), (2, 3, 4, 6, 8, 10, 15, 16), strict=True)))
def test_the_precision_asked_for_reaches_every_layer(weights: int, states: int) -> None:
    train("run", "--weights", weights, "--states", states)
    layers = Run.open(Path("run")).config.weighted
    assert {(layer.weights.bits, layer.states.membrane) for layer in layers} == {(weights, states)}
    succeed("export", "run", "--out", "build")
    for layer in network_file.load(Path("build/network.json")).network.layers:
        for op in (op for op in layer.ops if isinstance(op, MatVec)):
            codes = np.unique(layer.weights[op.weights]).tolist()
            assert len(codes) > 1
            if weights == 1:
                assert (op.levels, codes) == ((-1, 1), [0, 1])
            else:
                assert op.levels == ()
                assert set(codes) <= set(range(1 - 2 ** (weights - 1), 2 ** (weights - 1)))
        membrane = layer.state("u")
        assert -(2 ** (states - 1)) <= membrane.lo < membrane.hi < 2 ** (states - 1)


@pytest.mark.parametrize(
    ("flag", "name", "bits"),
    [
        *(("weight", name, widths[0]) for name, (_, widths) in WEIGHT_QUANTIZERS.items()),
        *(("state", name, 3) for name in STATE_QUANTIZERS),
    ],
)
def test_the_quantizer_asked_for_reaches_every_layer_and_is_shipped(flag: str, name: str, bits: int) -> None:
    train("run", f"--{flag}-quantizer", name, f"--{flag}s", bits)
    parts = [getattr(layer, f"{flag}s") for layer in Run.open(Path("run")).config.layers]
    assert {(part.quantizer, part.bits if flag == "weight" else part.membrane) for part in parts} == {(name, bits)}
    succeed("export", "run", "--out", "build")
    said = {layer.semantics[f"{flag}s"] for layer in network_file.load(Path("build/network.json")).network.layers}
    assert said == {f"{bits} bits, {name}"}
    (row,) = json.loads(succeed("verify", "build", "--run", "run", "--on", "interpreter", "--json").out)
    assert row["mismatches"] == 0


DIFFERENTIABLE = 'weights.quantizer = "dq"\nstates.quantizer = "dq"'


@pytest.mark.parametrize(
    ("options", "training"),
    [
        (DIFFERENTIABLE, "temperature = 2"),
        (DIFFERENTIABLE, 'forward = "soft"'),
        ('weights.quantizer = "dq-kmeans"\nnorm = "layer-batch"\nneuron.spikes = 2\nstates.range = 8', ""),
        ('weights.quantizer = "dq-kmeans"\nnorm = "psp"\nweights.standardize = true', ""),
    ],
)
def test_what_changes_with_the_epochs_goes_on_where_it_was(options: str, training: str) -> None:
    """The temperature, and the moments of a normalization, which no optimizer knows."""
    Path("net.toml").write_text(NETWORK.replace("size = 12", f"size = 12\n{options}") + training)
    anneal = SpikingNetwork.anneal
    with mock.patch.object(SpikingNetwork, "anneal", autospec=True, side_effect=anneal) as annealed:
        whole = said(train("whole", "--epochs", 3))
        train("parts", "--epochs", 1)
        assert said(succeed("train", "--resume", "--epochs", 3, "--out", "parts")) == whole
    assert [call.args[1] for call in annealed.call_args_list] == 2 * [0, 1, 2]
    assert results("parts") == results("whole")
    succeed("export", "whole", "--out", "build")
    (row,) = json.loads(succeed("verify", "build", "--run", "whole", "--on", "interpreter", "--json").out)
    assert row["mismatches"] == 0


@pytest.mark.parametrize(
    ("task", "encoder", "readout"),
    [
        ("digits", 'kind = "direct"', 'neuron = "li"'),
        ("digits", 'kind = "latency"', 'neuron.kind = "li"\nneuron.pool = "max"'),
        ("digits", 'kind = "rate"\nseed = 3', 'neuron = "count"'),
        ("npz", 'kind = "direct"', 'neuron.kind = "li"\nneuron.pool = "max"'),
        ("npz", 'kind = "rate"', 'neuron = "li"'),
        ("npz", 'kind = "delta"\ndelta = 20', 'neuron = "count"'),
    ],
)
def test_every_encoder_and_readout_trains_exports_and_verifies(task: str, encoder: str, readout: str) -> None:
    text = NETWORK.replace("[encoder]", f"[encoder]\n{encoder}").replace('neuron = "li"', readout)
    if task == "npz":
        text = text.replace("digits", "npz").replace("steps = 4", "steps = 6").replace("size = 10", "size = 2")
    Path("net.toml").write_text(text)
    write_sequences("data.npz")
    train("run", "--data", "data.npz")
    succeed("export", "run", "--out", "build", "--name", "net")
    rows = json.loads(succeed("verify", "build", "--on", "interpreter", "--on", "c-host", "--json").out)
    assert [row["mismatches"] for row in rows] == [0, 0]
    again = ("--run", "run", "--data", "data.npz", "--samples", 7)
    (row,) = json.loads(succeed("verify", "build", *again, "--on", "interpreter", "--json").out)
    assert (row["samples"], row["mismatches"]) == (7, 0)


def test_sequences_are_learned_from_their_changes() -> None:
    write_sequences("data.npz")
    text = NETWORK.replace("[encoder]", '[encoder]\nkind = "delta"\ndelta = 20').replace("steps = 4", "steps = 6")
    Path("net.toml").write_text(
        text.replace("digits", "npz").replace("size = 10", "size = 2") + "batch = 8\nrate = 0.02"
    )
    found = re.fullmatch(r"test accuracy (.*) %\n", said(train("run", "--data", "data.npz", "--epochs", 8)))
    assert float(found[1]) > 75  # of 12, 11 or all with seeds 0 to 19; chance gives 50


@pytest.mark.parametrize(("flag", "what"), [("--weights", "weights"), ("--states", "states")])
def test_full_precision_cannot_be_exported(here: Path, flag: str, what: str) -> None:
    train("run", flag, "float")
    before = contents(here)
    done = quantal("export", "run", "--out", "build")
    line = f"quantal: layer hidden: {what}: full precision is for comparison and cannot be exported\n"
    assert done == Done(2, "", line)
    assert contents(here) == before


def test_thresholds_stay_above_zero_and_the_run_can_be_opened() -> None:
    write_sequences("data.npz")
    text = NETWORK.replace("digits", "npz").replace("steps = 4", "steps = 6").replace("size = 10", "size = 2")
    Path("net.toml").write_text(text + "rate = 10")
    train("run", "--data", "data.npz", "--epochs", 3)
    assert float(load_file("run/checkpoint.safetensors")["network.layers.0.threshold"].min()) == 1 / 64
    succeed("export", "run", "--out", "build")


def test_a_run_that_diverges_stops_before_it_spoils_its_checkpoint() -> None:
    """A NaN in a hidden layer can hide from the loss, for no spike comes of it."""
    train("run")
    before = contents(Path("run"))
    with mock.patch.object(SpikingNetwork, "project", lambda network: network.stack[0].threshold.data.fill_(np.nan)):
        done = quantal("train", "--resume", "--epochs", 2, "--out", "run")
    line = "quantal: run: the loss or a parameter is not finite in epoch 2: lower [training] rate\n"
    assert done == Done(2, "", line)
    assert contents(Path("run")) == before

"""Runs that learn online: they ship what they learned, and refuse what the identities do not cover."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from quantal.export.base.errors import BadInput
from quantal.qat.config import config_file, rules
from quantal.qat.config.parts.training import SafE, SafF
from quantal.qat.network.network import SpikingNetwork
from support.commands import NETWORK, contents, succeed
from support.layers import replace
from support.messages import one_line

# ---- training

METHODS = ("saf-e", "saf-f")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(method: str, options: str = "") -> None:
    """net.toml: a small recurrent network for the digits, to be trained so."""
    text = NETWORK.replace("size = 12", f"size = 32\nweights.gain = 2.0\n{options}")
    text = text.replace('neuron = "li"', 'neuron = "li"\nstates.range = 16.0')
    Path("net.toml").write_text(f'{text}rate = 0.005\nmethod = "{method}"\n')


def train(out: str, *args: object) -> float:
    """A new run; its accuracy in percent."""
    return float(succeed("train", "--network", "net.toml", *args, "--out", out).out.split()[-2])


@pytest.mark.parametrize(("method", "timing"), [("saf-e", "delayed"), ("saf-f", "immediate")])
def test_the_digits_are_learned_and_shipped(method: str, timing: str) -> None:
    write(method, f'neuron.timing = "{timing}"')
    assert train("whole", "--epochs", 3) > 50  # 87 to 95 with seeds 0 to 19; chance gives 10
    train("parts", "--epochs", 1)
    succeed("train", "--resume", "--epochs", 3, "--out", "parts")
    whole, parts = contents(Path("whole")), contents(Path("parts"))
    assert {name for name in whole if whole[name] != parts[name]} == {"network.toml"}  # which has the epochs
    succeed("export", "whole", "--out", "build")
    rows = json.loads(
        succeed("verify", "build", "--run", "whole", "--on", "interpreter", "--on", "simulator", "--json").out
    )
    assert [(row["mismatches"], row["values"] > 0) for row in rows] == [(0, True), (0, True)]


@pytest.mark.parametrize("method", METHODS)
def test_everything_learns_but_decays(method: str) -> None:
    write(method)
    train("run")
    after = load_file("run/checkpoint.safetensors")
    network = SpikingNetwork(config_file.load(Path("run/network.toml")), 64, 16)
    before, parameters = network.state_dict(), dict(network.named_parameters())
    moved = {name for name, value in before.items() if not torch.equal(value, after[f"network.{name}"])}
    assert moved == {name for name in parameters if not name.endswith("decay")}


@pytest.mark.parametrize("method", METHODS)
def test_a_run_learns_from_a_teacher_and_beside_its_full_precision_twin(method: str) -> None:
    write("bptt")
    train("teacher")
    write(method)
    lines = succeed("train", "--network", "net.toml", "--compare", "--teacher", "teacher", "--out", "run").out
    assert [line.split()[:-2] for line in lines.splitlines()[1:]] == [
        ["full", "precision", "test", "accuracy"],
        ["test", "accuracy"],
    ]
    train("alone")
    assert Path("run/checkpoint.safetensors").read_bytes() != Path("alone/checkpoint.safetensors").read_bytes()


# ---- what is refused


REFUSED = [
    ({"reset": "zero"}, "neuron: reset: trains subtract, 'zero'"),
    ({"reset": "none"}, "neuron: reset: 'none'"),
    ({"timing": "snntorch"}, "neuron: timing: delayed or immediate, 'snntorch'"),
    ({"synapse": "exponential"}, "neuron: synapse: none, exponential"),
    ({"adaptation": 0.5}, "neuron: adaptation: none, got Adaptation"),
    ({"refractory": 1}, "neuron: refractory: 0, 1"),
    ({"spikes": 2}, "neuron: spikes: 1, 2"),
    ({"norm": "layer-batch"}, "norm: none, 'layer-batch'"),
    ({"decay_per": "neuron"}, "neuron: decay_per: layer, 'neuron'"),
    ({"state_quantizer": "squat"}, "states: quantizer: evenly 'squat'"),
    ({"neuron": "alpha", "reset": "zero", "decay": 0.5}, "neuron: kind: lif or li, 'alpha'"),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("hidden", "readout", "words"),
    [
        *((options, {}, f"layer[0]: {words}") for options, words in REFUSED),
        ({}, {"neuron": "count"}, "layer[1]: neuron: kind: lif or li, 'count'"),
        ({}, {"pool": "max"}, "layer[1]: pool: last, 'max'"),
        ({}, {"synapse": "exponential"}, "layer[1]: synapse:"),
    ],
)
def test_what_the_identities_do_not_cover_is_refused_by_name(
    method: str, hidden: dict[str, Any], readout: dict[str, Any], words: str
) -> None:
    config = config_file.loads(NETWORK, "net")
    layers = replace(config.layers[0], **hidden), replace(config.layers[1], **readout)
    rules.refuse(replace(config, layers=layers), "net")  # bptt takes it
    with pytest.raises(BadInput) as error:
        rules.refuse(replace(config, layers=layers, training={"saf-e": SafE, "saf-f": SafF}[method]()), "net")
    one_line(error, "net: ", method, *words.split())


def test_another_method_is_refused_with_the_methods_that_there_are() -> None:
    with pytest.raises(BadInput) as error:
        config_file.loads(NETWORK + 'method = "rtrl"', "net")
    one_line(error, "net:20: training: method: ", "bptt, saf-e, saf-f", "'rtrl'")


@pytest.mark.parametrize("method", METHODS)
def test_a_configuration_keeps_its_method(method: str) -> None:
    config = config_file.loads(NETWORK + f'method = "{method}"', "net")
    assert config.training.method == method
    assert config_file.loads(config_file.dumps(config), "net") == config

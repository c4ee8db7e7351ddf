"""Bad input: exit code 2, one line that names the file or option and the field, and the files are as they were."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.io import wavfile
from test_cli import NETWORK, contents, place, program, quantal, succeed, trained

__all__ = ["place", "trained"]

CHECKPOINT = "run/checkpoint.safetensors"
EXPORT, VERIFY, COST = "export run --out new", "verify build --on interpreter", "cost build --core cortex-m0"
RESUME, TRAIN = "train --resume --epochs 2 --out run", "train --network net.toml --out new"


def refused(folder: Path, command: str, *words: str, run: Callable[..., Any] = quantal) -> None:
    """`quantal command` in the current folder refuses with a line that holds all the words, and leaves no trace."""
    before = contents(folder)
    done = run(*command.split(" "))
    assert done.code == 2, ascii(done.err)
    assert done.out == "" or command.startswith("demo")
    assert len(done.err.splitlines()) == 1, ascii(done.err)
    assert done.err.startswith("quantal: ")
    for word in words:
        assert word in done.err, ascii(done.err)
    after = contents(folder)
    assert {name for name in {*before, *after} if before.get(name, "") != after.get(name, "")} == set()


# ---- options


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("frobnicate", "No such command 'frobnicate'"),
        ("--frobnicate", "No such option '--frobnicate'"),
        ("train --frobnicate", "No such option '--frobnicate'"),
        ("export", "Missing argument 'RUN'"),
        ("export run", "Missing option '--out'"),
        ("export run more --out new", "unexpected extra argument (more)"),
        ("train --task digits", "Missing option '--out'"),
        ("train --out new", "--task: name a task"),
        ("train --task chess --out new", "--network: task 'chess'"),
        ("train --task npz --out new", "--network: task 'npz'"),
        ("train --task braille --out new", "--network: task 'braille'"),
        ("train --preset chess --out new", "'--preset'"),
        ("train --preset digits --network net.toml --out new", "--network: --preset"),
        ("train --preset digits --task mnist --out new", "--task: 'mnist' 'digits'"),
        ("train --network net.toml --task npz --out new", "--task: 'npz' 'digits'"),
        ("train --network nowhere.toml --out new", "nowhere.toml: No such file"),
        ("train --network run --out new", "run: Is a directory"),
        ("train --task digits --weights 9 --out new", "'--weights' float '9'"),
        ("train --task digits --weights 0 --out new", "'--weights' '0'"),
        ("train --task digits --weights ternary --out new", "'--weights' 'ternary'"),
        ("train --task digits --weights learned --out new", "training: budget:"),
        ("train --task digits --weights 1 --weight-quantizer maqd --out new", "weights: maqd 2 to 8 bits, 1"),
        ("train --task digits --weight-quantizer ternary --out new", "'--weight-quantizer': 'ternary' 'tquant'"),
        ("train --task digits --weight-quantizer tquant --out new", "weights: tquant 2 bits, 4"),
        ("train --task digits --states 0 --out new", "'--states' '0'"),
        ("train --task digits --states 1 --out new", "states: uniform 2 to 16 bits, 1"),
        ("train --task digits --states 17 --out new", "'--states' '17'"),
        ("train --task digits --states 9 --state-quantizer aligned --out new", "states: aligned 1 to 8 bits, 9"),
        ("train --task digits --state-quantizer round --out new", "'--state-quantizer': 'round' 'aligned'"),
        ("train --task digits --epochs -1 --out new", "'--epochs' 0<=x<=100000"),
        ("train --task digits --epochs 100001 --out new", "'--epochs' 0<=x<=100000"),
        ("train --task digits --epochs many --out new", "'--epochs' 'many'"),
        ("train --task digits --seed -1 --out new", "'--seed'"),
        ("train --task digits --seed 4294967296 --out new", "'--seed'"),
        ("train --task digits --device quantum --out new", "No such option '--device'"),
        ("train --network net.toml --weights float --states float --out run", "run: already exists"),
        ("train --task mnist --out new", "mnist: data: folder"),
        ("train --task mnist --data nowhere --out new", "nowhere: data: folder"),
        ("train --task mnist --data run --out new", "train-images-idx3-ubyte: file"),
        ("train --task speech --data net.toml --out new", "net.toml: data: folder"),
        ("train --task speech --data run --out new", "run: recordings"),
        ("train --resume --out nowhere", "nowhere: no such run folder"),
        ("train --resume --out net.toml", "net.toml: no such run folder"),
        ("train --resume --out build", "build/network.toml: No such file"),
        ("train --resume --task digits --out run", "--task: --resume"),
        ("train --resume --network net.toml --out run", "--network: --resume"),
        ("train --resume --preset digits --out run", "--preset: --resume"),
        ("train --resume --weights 4 --out run", "--weights: --resume"),
        ("train --resume --states 8 --out run", "--states: --resume"),
        ("train --resume --weight-quantizer lsq --out run", "--weight-quantizer: --resume"),
        ("train --resume --state-quantizer dq --out run", "--state-quantizer: --resume"),
        ("train --resume --from run --out run", "--from: --resume"),
        ("train --resume --calibration mse --out run", "--calibration: --from"),
        ("train --network net.toml --calibration mse --out new", "--calibration: --from"),
        ("train --network net.toml --from nowhere --out new", "nowhere: no such run folder"),
        ("train --network net.toml --from build --out new", "build/network.toml: No such file"),
        ("train --network net.toml --from run --calibration l2 --out new", "'--calibration': 'l2' 'hindsight'"),
        ("train --network net.toml --from run --calibration gpfq --weight-quantizer dq --out new", "gpfq lsq"),
        ("train --preset digits --from run --out new", "--from: layer hidden: size: 12"),
        ("train --network net.toml --from run --out run", "run: already exists"),
        ("train --resume --seed 0 --out run", "--seed: --resume"),
        ("export nowhere --out new", "nowhere: no such run folder"),
        ("export no\nwhere --out new", "no where: no such run folder"),
        ("export build --out new", "build/network.toml: No such file"),
        ("verify nowhere", "nowhere: no such build folder"),
        ("verify net.toml", "net.toml: no such build folder"),
        ("verify run", "run/network.json: No such file"),
        ("verify build --on mars", "'--on' 'mars' cortex-m0"),
        ("verify build --data net.toml", "--data: --run"),
        ("verify build --samples 0", "'--samples' x>=1"),
        ("verify build --samples 33", "--samples: 32"),
        ("verify build --run run --samples 356", "--samples: 355"),
        ("verify build --run nowhere", "nowhere: no such run folder"),
        ("cost nowhere", "nowhere: no such build folder"),
        ("cost build --core z80", "--core: 'z80' cortex-m0"),
    ],
)
def test_options(place: Path, command: str, words: str) -> None:
    refused(place, command, *words.split())


@pytest.mark.parametrize("command", ["train --network net.toml", "export run", "demo"])
@pytest.mark.parametrize(
    ("out", "why"),
    [
        ("run", "already exists"),
        ("build", "already exists"),
        ("net.toml", "already exists"),
        ("net.toml/below", "cannot be written"),
        ("net.toml/further/below", "cannot be written"),
        ("n" * 5000, "File name too long"),
    ],
)
def test_outputs(place: Path, command: str, out: str, why: str) -> None:
    refused(place, f"{command} --out {out}", out, why)


@pytest.mark.parametrize(
    "command", ["verify ", "cost ", "export --out new ", "train --resume --out ", "verify build --run "]
)
def test_impossible_paths(place: Path, command: str) -> None:
    refused(place, command + "n" * 5000, "File name too long")


@pytest.mark.parametrize(
    "name", ["", "2x", "a\tb", "../x", "x/y", "int", "class", "X", "naïve", "x-y", "x" * 40, "x\n"]
)
def test_names(place: Path, name: str) -> None:
    refused(place, f"{EXPORT} --name {name}", "--name: expected a C identifier")


# ---- the network's TOML

ALPHA = 'neuron = "alpha"\ndecay = 0.5\n'


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[task]", "[task", "TOML"),
        ('name = "digits"', 'name = "digits', "TOML"),
        ("size = 12", "size = 12\nsize = 13", "TOML"),
        ("size = 12", "size = " + "9" * 5000, "TOML"),
        ("size = 12", "size = " + "[" * 5000, "TOML"),
        ("size = 12", "size = 1979-13-01", "TOML"),
        ("[training]", "[extra]\n[training]", "extra: table"),
        ("[training]", "[[training]]", "training: table"),
        ("[[layer]]", "[[layers]]", "layers: table"),
        (NETWORK, "", "layer: at least one"),
        (NETWORK, "layer = []", "layer: at least one"),
        (NETWORK, "[layer]\nsize = 3", "layer: at least one"),
        (NETWORK, "layer = [3]", "task: name: missing"),
        (NETWORK, 'layer = [3]\n[task]\nname = "digits"', "layer[0]: table"),
        ('name = "digits"', "", "task: name: missing"),
        ('name = "digits"', "name = 3", "task: name: 3"),
        ('name = "digits"', 'name = "chess"', "task: name: 'chess'"),
        ('name = "digits"', 'name = "digits"\nsteps = 4', "digits: options: 'steps'"),
        ('name = "digits"', 'name = "digits"\ndata = "x"', "digits: options: 'data'"),
        ('name = "digits"', 'name = "digits"\ntask = "x"', "digits: options: 'task'"),
        ('name = "digits"', 'name = "digits"\n"a\\nb" = 1', "digits: options: 'a\\nb'"),
        ('name = "digits"', 'name = "digits"\nwords = ["x"]', "task: words: ['x']"),
        ("steps = 4", "step = 4", "encoder: step: steps"),
        ("steps = 4", "steps = 0", "encoder: steps: [1, 0"),
        ("steps = 4", "steps = 4.0", "encoder: steps: integer 4.0"),
        ("steps = 4", "steps = true", "encoder: steps: integer True"),
        ("steps = 4", 'kind = "morse"', "encoder: kind: latency 'morse'"),
        ("steps = 4", 'kind = "delta"', "encoding delta: x: sequences"),
        ("steps = 4", "delta = 0", "encoder: delta: [1, 0"),
        ("steps = 4", "seed = -1", "encoder: seed: [0, -1"),
        ('name = "hidden"', "", "layer[0]: name: missing"),
        ('name = "hidden"', "name = 3", "layer[0]: name: string 3"),
        ('name = "hidden"', 'name = ""', "layer[0]: name: identifier"),
        ('name = "hidden"', 'name = "2nd"', "layer[0]: name: identifier"),
        ('name = "hidden"', 'name = "Hidden"', "layer[0]: name: identifier"),
        ('name = "hidden"', 'name = "häuser"', "layer[0]: name: identifier"),
        ('name = "hidden"', 'name = "while"', "layer[0]: name: identifier"),
        ('name = "hidden"', 'name = "a*/ b"', "layer[0]: name: identifier"),
        ('name = "hidden"', 'name = "a\\nb"', "layer[0]: name: identifier"),
        ('name = "hidden"', f'name = "{"h" * 40}"', "layer[0]: name: identifier"),
        ('name = "hidden"', 'name = "input"', "layer[0]: name: taken"),
        ('name = "hidden"', 'name = "readout"', "layer[1]: name: taken"),
        ("size = 12", "", "layer[0]: size: missing"),
        ("size = 12", "size = 0", "layer[0]: size: missing"),
        ("size = 12", "size = 65537", "layer[0]: size: 65537"),
        ("size = 12", 'size = "12"', "layer[0]: size: integer '12'"),
        ("size = 12", "size = 12.5", "layer[0]: size: integer 12.5"),
        ("size = 12", "size = 12\nwidth = 3", "layer[0]: width: size"),
        ("size = 12", "size = 12\nweights = 9", "layer[0]: weights: float 9"),
        ("size = 12", "size = 12\nweights = 0", "layer[0]: weights: 0"),
        ("size = 12", "size = 12\nweights = true", "layer[0]: weights: True"),
        ("size = 12", "size = 12\nweights = 4.0", "layer[0]: weights: 4.0"),
        ("size = 12", 'size = 12\nweights = "binary"', "layer[0]: weights: 'binary'"),
        ("size = 12", 'size = 12\nweights = "float"', "layer[1]: weights: float"),
        ("size = 12", 'size = 12\nweights = "ternary"', "layer[0]: weights: 'ternary'"),
        ("size = 12", 'size = 12\nweights = "learned"', "training: budget: learned"),
        ("size = 12", 'size = 12\nweight_quantizer = "brevitas"', "layer[0]: weight_quantizer: maqd 'brevitas'"),
        ("size = 12", 'size = 12\nweight_quantizer = "mquant"', "layer[0]: weights: mquant 4"),
        ("size = 12", 'size = 12\nweights = 1\nweight_quantizer = "maqd"', "layer[0]: weights: maqd 2 to 8 1"),
        ("size = 12", 'size = 12\nweights = 5\nweight_quantizer = "dq-power"', "layer[0]: weights: dq-power 2 to 4 5"),
        ("size = 12", "size = 12\nstates = 1", "layer[0]: states: uniform 2 to 16 1"),
        ("size = 12", "size = 12\nstates = 17", "layer[0]: states: 17"),
        ("size = 12", 'size = 12\nstate_quantizer = "pact"', "layer[0]: state_quantizer: squat-zero 'pact'"),
        ("size = 12", 'size = 12\nstate_quantizer = "shared"\nstates = 1', "layer[0]: states: shared 2 to 16 1"),
        ("size = 12", 'size = 12\nstate_quantizer = "squat"\nstates = 9', "layer[0]: states: squat 1 to 8 9"),
        ("size = 12", 'size = 12\nstate_gradient = "identity"', "layer[0]: state_gradient: uniform"),
        ("size = 12", 'size = 12\nstate_gradient = "soft"', "layer[0]: state_gradient: clip, identity 'soft'"),
        ("size = 12", 'size = 12\nstate_quantizer = "dq"\nthreshold_per = "neuron"', "layer[0]: threshold_per: dq"),
        ("size = 12", 'size = 12\nstate_quantizer = "dq"\nnorm = "layer-batch"', "layer[0]: norm: dq"),
        ("size = 12", 'size = 12\nstate_quantizer = "squat"\nspikes = 2', "layer[0]: spikes: squat"),
        ("size = 12", 'size = 12\nnorm = "group"', "layer[0]: norm: batch layer-batch psp 'group'"),
        ("size = 12", 'size = 12\nstate_quantizer = "dq"\nnorm = "batch"', "layer[0]: norm: dq"),
        ("size = 12", 'size = 12\nweight_quantizer = "maqd"\nstandardize = true', "layer[0]: standardize: maqd"),
        ("size = 12", 'size = 12\nweights = "learned"\nstandardize = true', "layer[0]: weights: learned"),
        ("size = 12", 'size = 12\nweights = "learned"\nnorm = "psp"', "layer[0]: weights: learned"),
        ("recurrent = true", 'recurrent = true\nneuron = "step"', "layer[0]: recurrent: step"),
        *(
            ("recurrent = true", f'neuron = "step"\n{name} = {value}', f"layer[0]: {name}: step")
            for name, value in (
                ("decay", "0.5"),
                ("synapse", '"exponential"'),
                ("adaptation", "0.5"),
                ("refractory", "1"),
                ("reset", '"zero"'),
                ("timing", '"immediate"'),
            )
        ),
        ("size = 12", "size = 12\nspikes = 0", "layer[0]: spikes: [1, 15], 0"),
        ("size = 12", "size = 12\nspikes = 16", "layer[0]: spikes: [1, 15], 16"),
        ("size = 12", "size = 12\nstates = [8]", "layer[0]: states: [8]"),
        ("size = 12", "size = 12\nthreshold = 0", "layer[0]: threshold: 0"),
        ("size = 12", "size = 12\nthreshold = -1.0", "layer[0]: threshold: -1.0"),
        ("size = 12", "size = 12\nthreshold = nan", "layer[0]: threshold: nan"),
        ("size = 12", "size = 12\nthreshold = inf", "layer[0]: threshold: inf"),
        ("size = 12", "size = 12\ngain = 0.0", "layer[0]: gain: 0.0"),
        ("size = 12", "size = 12\ndecay = 1.5", "layer[0]: decay: 1.5"),
        ("size = 12", 'size = 12\ndecay = "0.9"', "layer[0]: decay: number '0.9'"),
        ("size = 12", "size = 12\ndecay_bits = 13", "layer[0]: decay_bits: 13"),
        ("size = 12", "size = 12\nstate_range = 0.5", "layer[0]: state_range: 0.5"),
        ("size = 12", 'size = 12\nscale = "tensor"', "layer[0]: scale: 'tensor'"),
        ("size = 12", 'size = 12\nreset = "hard"', "layer[0]: reset: 'hard'"),
        ("size = 12", 'size = 12\ntiming = "soon"', "layer[0]: timing: 'soon'"),
        ("size = 12", 'size = 12\nneuron = "hodgkin"', "layer[0]: neuron: lif 'hodgkin'"),
        ("size = 12", 'size = 12\nneuron = "li"', "layer[0]: neuron: readout last"),
        ("size = 12", 'size = 12\npool = "max"', "layer[0]: pool: li"),
        *(
            ("size = 12", f"size = 12\n{options}", f"layer[0]: {words}")
            for options, words in (
                ('synapse = "alpha"', "synapse: none, exponential 'alpha'"),
                ("synapse_decay = 0.5", 'synapse_decay: no effect synapse = "exponential"'),
                ('synapse = "exponential"\nsynapse_decay = 1.1', "synapse_decay: [0, 1.1"),
                ('synapse = "exponential"\nstate_quantizer = "squat"\nstates = 1', "states: current 2 bits 1"),
                ("adaptation = -1", "adaptation: [0, 1000], -1"),
                ("adaptation = 1\nspikes = 2", "adaptation: one spike 2"),
                ('adaptation = 1\nstate_quantizer = "squat"\nstates = 1', "states: adaptation 2 bits 1"),
                ("adaptation_decay = 0.5", "adaptation_decay: no effect adaptation"),
                ("refractory = 256", "refractory: [0, 255], 256"),
                ("refractory = 1.5", "refractory: integer 1.5"),
                ("refractory = 1\nspikes = 2", "refractory: one spike 2"),
                ('reset = "zero"\ntiming = "snntorch"', "timing: zero delayed, immediate 'snntorch'"),
                ('reset = "none"\ntiming = "snntorch"', "timing: none delayed, immediate 'snntorch'"),
                ('reset = "zero-before"\ntiming = "immediate"', "timing: zero-before delayed 'immediate'"),
                ('reset = "zero-before"\ntiming = "snntorch"', "timing: zero-before delayed 'snntorch'"),
                ('timing = "snntorch"\nadaptation = 1', "timing: snnTorch adaptation"),
                ('timing = "snntorch"\nrefractory = 1', "timing: snnTorch refractory"),
                ('timing = "snntorch"\nspikes = 2', "timing: snnTorch one spike"),
                (ALPHA, "reset: alpha 'zero' or 'none' 'subtract'"),
                (f'{ALPHA}reset = "zero"\ntiming = "immediate"', "timing: alpha 'delayed' 'immediate'"),
                (f'{ALPHA}reset = "zero"\nsynapse = "exponential"', "synapse: alpha 'none' 'exponential'"),
                (f'{ALPHA}reset = "zero"\nstate_quantizer = "squat"', "state_quantizer: alpha 'uniform' 'squat'"),
                (f'{ALPHA}reset = "zero"\nspikes = 2', "spikes: alpha one"),
                (f'{ALPHA}reset = "zero"\nadaptation = 1', "adaptation: alpha"),
                (f'{ALPHA}reset = "zero"\nrefractory = 1', "refractory: alpha"),
                (f'{ALPHA}reset = "zero"\nsynapse_decay = 0.5', "synapse_decay: alpha above decay, 0.5, 0.5"),
            )
        ),
        ("size = 12", "size = 12\nthreshold = 1000\nstates = 2\nstate_range = 1024\ngain = 0.001", "hidden 32 bits"),
        ("recurrent = true", "recurrent = 1", "layer[0]: recurrent: true 1"),
        ('neuron = "li"', "", "layer[1]: neuron: readout last"),
        ('neuron = "li"', 'neuron = "li"\nrecurrent = true', "layer[1]: recurrent: li"),
        ('neuron = "li"', 'neuron = "count"\npool = "max"', "layer[1]: pool: li"),
        ('neuron = "li"', 'neuron = "li"\nspikes = 2', "layer[1]: spikes: li"),
        ('neuron = "li"', 'neuron = "li"\nnorm = "batch"', "layer[1]: norm: readout"),
        ('neuron = "li"', 'neuron = "li"\nnorm = "layer-batch"', "layer[1]: norm: readout"),
        ('neuron = "li"', 'neuron = "li"\nadaptation = 1', "layer[1]: adaptation: li"),
        ('neuron = "li"', 'neuron = "li"\nrefractory = 1', "layer[1]: refractory: li"),
        ('neuron = "li"', 'neuron = "alpha"', "layer[1]: neuron: readout last"),
        ("size = 10", "size = 9", "readout: size: 10 digits 9"),
        ("epochs = 1", "epochs = -1", "training: epochs: [0, 100000], -1"),
        ("epochs = 1", "epochs = 100001", "training: epochs: 100001"),
        ("epochs = 1", "batch = 0", "training: batch: 0"),
        ("epochs = 1", "rate = -1", "training: rate: -1"),
        ("epochs = 1", "halving = 0", "training: halving: 0"),
        ("epochs = 1", "slope = -0.5", "training: slope: -0.5"),
        ("epochs = 1", "temperature = 0", "training: temperature: 0"),
        ("epochs = 1", 'forward = "both"', "training: forward: hard, soft 'both'"),
        ("epochs = 1", 'forward = "soft"', "training: forward: differentiable"),
        ("epochs = 1", "budget = 100", "training: budget: learned"),
        ("epochs = 1", "epoch = 1", "training: epoch: epochs"),
    ],
)
def test_networks(place: Path, old: str, new: str, words: str) -> None:
    assert NETWORK.count(old) >= 1
    (place / "net.toml").write_text(NETWORK.replace(old, new, 1), encoding="utf-8")
    refused(place, TRAIN, *words.split())


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\x00", b"name = '\xe4'"])
def test_networks_that_are_no_text(place: Path, content: bytes) -> None:
    for file, command in (("net.toml", TRAIN), ("run/network.toml", EXPORT)):
        (place / file).write_bytes(content)
        refused(place, command, f"{file}: ")


# ---- files of a run and of a build, damaged


def flipped(content: bytes, position: int, mask: int) -> bytes:
    """The content with the bits of `mask` flipped in one byte."""
    return bytes([*content[:position], content[position] ^ mask, *content[position + 1 :]])


FILES = {
    CHECKPOINT: (EXPORT, RESUME, "verify build --on interpreter --run run"),
    "run/network.toml": (EXPORT, RESUME),
    "run/samples.npz": (EXPORT, "verify build --on interpreter --run run"),
    "build/network.json": (VERIFY, COST),
    "build/MANIFEST.json": (VERIFY, COST),
    "build/vectors.npz": (VERIFY, COST),
    "build/digits.h": (COST,),
    "build/digits_sim.py": (COST,),
    "build/digits_test.c": (COST,),
    "build/digits.onnx": (COST,),
}
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "one byte": lambda content: content[:1],
    "third": lambda content: content[: len(content) // 3],  # of a network.toml: a hidden layer alone
    "random": lambda content: np.random.default_rng(0).bytes(len(content)),
    "flipped": lambda content: flipped(content, len(content) // 2 if content.startswith(b"PK") else 20, 1),
    "JSON": lambda content: b'{"files": {"../../x": "sha256:0"}, "format": []}',
    "deep": lambda content: b"[" * 100_000,
    "zip": lambda content: b"PK\x03\x04" + content[4 : len(content) // 3],
}


@pytest.mark.parametrize("damage", [*DAMAGE, "missing", "folder"])
@pytest.mark.parametrize("file", FILES)
def test_damaged_files(place: Path, file: str, damage: str) -> None:
    path = place / file
    content = path.read_bytes()
    if damage in DAMAGE:
        path.write_bytes(DAMAGE[damage](content))
        assert path.read_bytes() != content
    else:
        path.unlink()
    if damage == "folder":
        path.mkdir()
    for command in FILES[file]:
        refused(place, command, path.name)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    file=st.sampled_from([name for name in FILES if not name.endswith((".h", ".c", ".onnx"))]),
    position=st.integers(0, 100_000) | st.integers(0, 300),
    mask=st.integers(1, 255),
)
def test_whatever_byte_is_damaged_there_is_an_answer(place: Path, file: str, position: int, mask: int) -> None:
    """A damaged weight of a run is another weight: nobody can know. But there is no traceback, and no half a build."""
    path = place / file
    content, before = path.read_bytes(), contents(place)
    path.write_bytes(flipped(content, position % len(content), mask))
    try:
        executor = "simulator" if file.endswith("_sim.py") else "interpreter"
        done = quantal(*f"verify build --on {executor}{' --run run' * file.startswith('run')}".split())
        assert done.code in (0, 1, 2)
        assert all(line.startswith("quantal: ") for line in done.err.splitlines())
        assert (done.code == 0) == (done.err == "")
        if done.code == 2:
            assert len(done.err.splitlines()) == 1
            assert path.parent.name in done.err or path.name in done.err
        if file.startswith("build") and path.name != "MANIFEST.json":
            assert done.code != 0
    finally:
        path.write_bytes(content)
    assert contents(place) == before


def change(path: str, key: str, spoil: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Replaces a tensor of a checkpoint."""
    tensors = load_file(path)
    save_file(tensors | {key: spoil(tensors[key]).contiguous()}, path)


@pytest.mark.parametrize(
    ("tensor", "spoil", "words"),
    [
        ("network.layers.0.weight", lambda t: t * np.nan, "NaN"),
        ("network.layers.0.recurrent", lambda t: t / 0, "infinity"),
        ("network.layers.1.bias", lambda t: t - np.inf, "infinity"),
        ("adam.layers.1.decay.exp_avg", lambda t: t * np.nan, "NaN"),
        ("network.layers.0.weight", lambda t: t.double(), "float32 float64"),
        ("network.layers.0.weight", lambda t: t[:, 1:], "(12, 64) (12, 63)"),
        ("network.layers.0.weight", lambda t: t[1:], "(12, 64) (11, 64)"),
        ("network.layers.1.weight", lambda t: t.T, "(10, 12) (12, 10)"),
        ("network.layers.0.threshold", lambda t: t[0], "(12,) ()"),
        ("adam.layers.0.bias.exp_avg_sq", lambda t: t[1:], "(12,) (11,)"),
        ("adam.layers.0.bias.exp_avg_sq", lambda t: t - 1, "no negative"),
        ("adam.layers.0.bias.step", lambda t: t * 0 - 1, "no negative"),
        ("epochs_done", lambda t: t * 0 - 1, "no negative"),
        ("channels", lambda t: t * 0, "1..65535"),
        ("channels", lambda t: t + 2**40, "1..65535"),
        ("channels", lambda t: t.reshape(1), "1..65535"),
        ("channels", lambda t: t.double(), "1..65535"),
        ("maximum", lambda t: t * 0, "1..65535"),
        ("maximum", lambda t: -t, "1..65535"),
    ],
)
def test_tensors(place: Path, tensor: str, spoil: Callable[[torch.Tensor], torch.Tensor], words: str) -> None:
    change(CHECKPOINT, tensor, spoil)
    for command in (EXPORT, RESUME):
        refused(place, command, f"{CHECKPOINT}: {tensor}: expected" if "(" in words else tensor, *words.split())


@pytest.mark.parametrize(
    ("tensor", "spoil", "words"),
    [
        ("network.layers.0.unit_gain", torch.zeros_like, "layer hidden: scale: positive"),
        ("network.layers.0.unit_gain", lambda t: -t, "layer hidden: scale: positive"),
        ("network.layers.1.unit_start", torch.zeros_like, "layer readout: scale: positive"),
        ("network.layers.1.unit_start", lambda t: -t, "layer readout: scale: positive"),
        ("network.layers.0.threshold", torch.zeros_like, "layer hidden: threshold: positive"),
        ("network.layers.0.threshold", lambda t: -t, "layer hidden: threshold: positive"),
        ("network.layers.0.shifts", lambda t: t * 0 - 1, "layer hidden: shifts: 0 31"),
        ("network.layers.0.shifts", lambda t: t * 0 + 32, "layer hidden: shifts: 0 31"),
        ("network.layers.0.shifts", lambda t: t * 0 + 2**62, "layer hidden: shifts: 0 31"),
        ("network.layers.0.bias", lambda t: t + 1e38, "layer hidden, neuron 0: 32 bits"),
        ("network.layers.1.bias", lambda t: t - 1e38, "layer readout, neuron 0: 32 bits"),
        ("network.layers.0.unit_gain", lambda t: t * 1e-38, "layer hidden, neuron 0: 32 bits"),
    ],
)
def test_scales_thresholds_and_biases(
    place: Path, tensor: str, spoil: Callable[[torch.Tensor], torch.Tensor], words: str
) -> None:
    change(CHECKPOINT, tensor, spoil)
    for command in (EXPORT, RESUME):
        refused(place, command, *words.split())


def test_checkpoints_of_other_networks(place: Path) -> None:
    tensors = load_file(CHECKPOINT)
    save_file(tensors | {"extra": torch.zeros(1)}, CHECKPOINT)
    refused(place, EXPORT, CHECKPOINT, "extra: not a tensor of this network")
    for missing in ("maximum", "network.layers.0.weight", "network.layers.0.shifts", "adam.layers.1.bias.step"):
        save_file({name: tensor for name, tensor in tensors.items() if name != missing}, CHECKPOINT)
        refused(place, EXPORT, CHECKPOINT, missing)
    save_file(tensors, CHECKPOINT)
    text = Path("run/network.toml").read_text()
    for old, new, tensor in (
        ("size = 12", "size = 13", "network.layers.0.weight"),
        ("recurrent = true", "recurrent = false", "recurrent"),
        ('kind = "direct"', 'kind = "delta"', "network.layers.0.weight"),
        ('name = "readout"\nsize = 10', 'name = "readout"\nsize = 11', "network.layers.1"),
    ):
        assert text.count(old) == 1
        Path("run/network.toml").write_text(text.replace(old, new))
        refused(place, EXPORT, CHECKPOINT, tensor)


def test_a_checkpoint_cannot_ask_for_more_memory_than_it_fills(place: Path) -> None:
    change(CHECKPOINT, "channels", lambda t: t * 0 + 65535)
    text = Path("run/network.toml").read_text()
    Path("run/network.toml").write_text(
        text.replace("size = 12", "size = 65536").replace("recurrent = true", "recurrent = false")
    )
    with mock.patch("quantal.qat.training.run.SpikingNetwork", side_effect=AssertionError):
        refused(place, EXPORT, CHECKPOINT, "network.layers.0.weight: expected (65536, 65535), got (12, 64)")


@dataclass
class Trap:
    """Unpickled, it leaves a file behind."""

    path: str

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def test_nothing_that_is_read_is_executed(place: Path) -> None:
    (place / "net.toml").write_text(NETWORK.replace("digits", "npz"))
    arrays = dict.fromkeys(("x", "y", "input"), np.array([Trap("sprung")], object))
    reads = {
        "data.npz": f"{TRAIN} --data data.npz",
        "build/vectors.npz": VERIFY,
        "run/samples.npz": EXPORT,
        CHECKPOINT: RESUME,
    }
    for file, command in reads.items():
        with (place / file).open("wb") as stream:
            np.savez(stream, **arrays)
        refused(place, command, file)
        (place / file).write_bytes(pickle.dumps(Trap("sprung")))
        refused(place, command, file)
        torch.save({"x": Trap("sprung")}, file)
        refused(place, command, file)
    assert not (place / "sprung").exists()
    pickle.loads(pickle.dumps(Trap("sprung"))).close()
    assert (place / "sprung").exists()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": None}, "x: missing"),
        ({"y": None}, "y: missing"),
        ({"x": np.zeros((3, 4, 64))}, "x: integers float64"),
        ({"x": np.zeros((3, 4, 63), int)}, "x: 64 63"),
        ({"x": np.zeros((3, 64), int)}, "x: (3, 64)"),
        ({"x": np.zeros((0, 4, 64), int)}, "x: (0, 4, 64)"),
        ({"x": np.zeros((3, 0, 64), int)}, "x: (3, 0, 64)"),
        ({"x": np.full((32, 4, 64), 17)}, "x: 0..16 17"),
        ({"x": np.full((32, 4, 64), -1)}, "x: 0..16 -1"),
        ({"y": np.zeros(31, int)}, "y: 32 (31,)"),
        ({"y": np.zeros(32)}, "y: float64"),
    ],
)
def test_samples_of_a_run(place: Path, arrays: dict[str, np.ndarray | None], words: str) -> None:
    spoil("run/samples.npz", arrays)
    for command in (EXPORT, VERIFY + " --run run"):
        refused(place, command, "run/samples.npz", *words.split())


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"hidden.u": None}, "hidden.u exactly"),
        ({"more": np.zeros(3, int)}, "more exactly"),
        ({"input": np.zeros((32, 4, 64))}, "input: integers float64"),
        ({"input": np.full((32, 4, 64), 17)}, "input: [0, 16] [17, 17]"),
        ({"input": np.zeros((32, 4, 63), int)}, "input: 64 63"),
        ({"input": np.zeros((0, 4, 64), int)}, "at least one sample"),
        ({"output": np.zeros((32, 3, 10), int)}, "output: (32, 3, 10)"),
        ({"hidden.u": np.zeros((32, 4), int)}, "hidden.u: (32, 4)"),
        ({"hidden.u": np.full((32, 4, 12), "x")}, "hidden.u: integers"),
    ],
)
def test_vectors_of_a_build(place: Path, arrays: dict[str, np.ndarray | None], words: str) -> None:
    spoil("build/vectors.npz", arrays)
    refused(place, VERIFY, "build/vectors.npz", *words.split())


def spoil(path: str, changes: dict[str, np.ndarray | None]) -> None:
    """Replaces arrays of an .npz file, or leaves out those that become None."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files} | changes
    np.savez(path, **{name: values for name, values in arrays.items() if values is not None})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda m: m.pop("files"), "files: KeyError"),
        (lambda m: m.update(files=3), "files:"),
        (lambda m: m["files"].update({"../net.toml": "sha256:0"}), "files: '../net.toml'"),
        (lambda m: m["files"].update({"gone.h": "sha256:0"}), "gone.h: missing"),
        (lambda m: m["files"].pop("digits.h"), "files: digits.h: missing"),
        (lambda m: m["files"].pop("vectors.npz"), "files: vectors.npz: missing"),
        (lambda m: m["files"].clear(), "files: network.json: missing"),
    ],
)
def test_manifests(place: Path, spoil: Callable[[dict[str, Any]], object], words: str) -> None:
    path = place / "build" / "MANIFEST.json"
    manifest = json.loads(path.read_text())
    spoil(manifest)
    path.write_text(json.dumps(manifest))
    for command in (VERIFY, COST):
        refused(place, command, "MANIFEST.json", *words.split())


# ---- data sets

SEQUENCES = {"x": np.arange(20 * 6 * 3).reshape(20, 6, 3) % 50, "y": np.arange(20) % 2}
NPZ = (
    NETWORK.replace("digits", "npz").replace("size = 10", "size = 2").replace("steps = 4", 'steps = 6\nkind = "delta"')
)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": None}, "data.npz: x:"),
        ({"y": None}, "data.npz: y:"),
        ({"x": SEQUENCES["x"] + 0.5}, "data.npz: x: fractions"),
        ({"x": SEQUENCES["x"] - 1}, "data.npz: x: -1"),
        ({"x": SEQUENCES["x"] * 2000}, "data.npz: x: 65535"),
        ({"x": np.full((20, 6, 3), "x")}, "data.npz: x: integers"),
        ({"x": SEQUENCES["x"][:19]}, "data.npz: y: 19 20"),
        ({"x": SEQUENCES["x"][..., None]}, "data.npz: x: (20, 6, 3, 1)"),
        ({"x": SEQUENCES["x"][:, 0]}, "encoding delta: x: (20, 3) sequences"),
        ({"x": SEQUENCES["x"][:, 1:]}, "encoding delta: steps: 5 6"),
        ({"x": SEQUENCES["x"] // 10}, "encoding delta: delta: 4"),
        ({"y": SEQUENCES["y"] + 1}, "readout: size: 3 npz 2"),
        ({"y": SEQUENCES["y"] * 0}, "readout: size: 1 npz 2"),
        ({"y": SEQUENCES["y"] - 1}, "data.npz: y: -1"),
        ({"y": np.arange(20)}, "data.npz: y: five"),
        ({"classes": np.int64(1)}, "data.npz: classes: 1"),
    ],
)
def test_npz_data(place: Path, arrays: dict[str, np.ndarray | None], words: str) -> None:
    (place / "net.toml").write_text(NPZ)
    np.savez("data.npz", **SEQUENCES)
    spoil("data.npz", arrays)
    refused(place, f"{TRAIN} --data data.npz", *words.replace("(20, 3)", "").split())


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06", b"no zip"])
def test_npz_data_that_is_no_zip(place: Path, content: bytes) -> None:
    (place / "net.toml").write_text(NPZ)
    (place / "data.npz").write_bytes(content)
    refused(place, f"{TRAIN} --data data.npz", "data.npz")
    refused(place, f"{TRAIN} --data nowhere.npz", "nowhere.npz: data")
    refused(place, TRAIN, "npz: data")
    with zipfile.ZipFile("data.npz", "w") as file:
        file.writestr("x.npy", content)
    refused(place, f"{TRAIN} --data data.npz", "data.npz")


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (SEQUENCES["x"][:, :, :2], SEQUENCES["y"], "trained on 3 channels 0..49 2"),
        (SEQUENCES["x"] + 1, SEQUENCES["y"], "trained on 3 channels 0..49 0..50"),
        (SEQUENCES["x"], SEQUENCES["y"] + 1, "readout: size: 3 2"),
        (SEQUENCES["x"][:, :4], SEQUENCES["y"], "steps: 4 6"),
    ],
)
def test_data_of_another_shape(place: Path, x: np.ndarray, y: np.ndarray, words: str) -> None:
    (place / "net.toml").write_text(NPZ)
    np.savez("data.npz", **SEQUENCES)
    succeed(*TRAIN.split(), "--data", "data.npz")
    succeed("export", "new", "--out", "made")
    np.savez("data.npz", x=x, y=y)
    words = words.replace("trained on", "new: made for")
    refused(place, "train --resume --epochs 2 --out new --data data.npz", *words.split())
    refused(place, "verify made --on interpreter --run new --data data.npz", *words.split())
    refused(place, "verify made --on interpreter --run new --samples 3", "npz: data")


def write_idx(folder: Path) -> None:
    """A small data set in MNIST's format."""
    folder.mkdir()
    for name, count in (("train", 20), ("t10k", 10)):
        shape = b"".join(n.to_bytes(4, "big") for n in (0x0803, count, 4, 4))
        (folder / f"{name}-images-idx3-ubyte").write_bytes(shape + bytes(count * 16))
        labels = b"".join(n.to_bytes(4, "big") for n in (0x0801, count))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(labels + bytes(n % 10 for n in range(count)))


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("train-images-idx3-ubyte", lambda b: b[:-1], "payload:"),
        ("train-images-idx3-ubyte", lambda b: b[:7], "header:"),
        ("train-images-idx3-ubyte", lambda b: b"", "magic:"),
        ("train-labels-idx1-ubyte", lambda b: b"\1" + b[1:], "magic:"),
        ("train-labels-idx1-ubyte", lambda b: b[:-1] + b"\12", "labels: 0..9"),
        ("t10k-images-idx3-ubyte", lambda b: b[:4] + b"\xff" + b[5:], "payload:"),
        ("t10k-labels-idx1-ubyte", lambda b: b[:4] + b"\0\0\0\0", "dimensions:"),
    ],
)
def test_idx_data(place: Path, name: str, damage: Callable[[bytes], bytes], words: str) -> None:
    write_idx(place / "data")
    path = place / "data" / name
    path.write_bytes(damage(path.read_bytes()))
    refused(place, "train --task mnist --data data --out new", name, *words.split())


def wav(rate: int) -> bytes:
    """A recording of 800 samples."""
    stream = io.BytesIO()
    wavfile.write(stream, rate, np.arange(-400, 400, dtype=np.int16))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("0_x_0.wav", lambda b: b[:-1], "wav:"),
        ("0_x_0.wav", lambda b: b[:30], "wav:"),
        ("0_x_0.wav", lambda b: b"", "wav:"),
        ("0_x_0.wav", lambda b: np.random.default_rng(0).bytes(400), "wav:"),
        ("0_x_0.wav", lambda b: wav(4000), "rate: 8000 4000"),
        ("zero.wav", lambda b: b, "name: label"),
    ],
)
def test_wav_data(place: Path, name: str, damage: Callable[[bytes], bytes], words: str) -> None:
    (place / "data").mkdir()
    (place / "data" / "1_x_11.wav").write_bytes(wav(8000))
    (place / "data" / name).write_bytes(damage(wav(8000)))
    refused(place, "train --task speech --data data --out new", name, *words.split())


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("2.bs2", lambda b: b[:-1], "events: 5 9"),
        ("2.bs2", lambda b: b"", "events: 5 0"),
        ("2.bs2", lambda b: b"\x22" + b[1:], "coordinates: 0..33 34"),
        ("labels.txt", lambda b: b.replace(b"2\t0", b"2\t10"), "line 3: class '2\\t10'"),
        ("labels.txt", lambda b: b.replace(b"2\t0", b"1\t0"), "line 3: once 1"),
        ("labels.txt", lambda b: b + b"7\t0\r\n", "line 7: 7.bs2"),
        ("labels.txt", lambda b: b[: b.index(b"5\t")], "5.bs2: label:"),
    ],
)
def test_event_data(place: Path, name: str, damage: Callable[[bytes], bytes], words: str) -> None:
    (place / "net.toml").write_text(NETWORK.replace("digits", "nmnist"))
    (place / "data").mkdir()
    for n in range(1, 6):
        (place / "data" / f"{n}.bs2").write_bytes(bytes([n, 3, 0x80, 0, n]) * 2)
    labels = "".join(f"{n}\t0\r\n" for n in range(1, 6))
    (place / "data" / "labels.txt").write_bytes(f"#sample #class\r\n{labels}".encode())
    path = place / "data" / name
    path.write_bytes(damage(path.read_bytes()))
    refused(place, f"{TRAIN} --data data", "" if ".bs2: label" in words else name, *words.split())


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"frames": None}, "frames: none"),
        ({"frames": np.zeros((4, 9, 11), np.uint8)}, "frames: (4, 9, 11)".replace(", ", ",")),
        ({"label": np.full(4, 27)}, "label: 0..26 27"),
        ({"label": np.zeros(3)}, "label: 4 3"),
        ({"length": np.full(4, 10)}, "length: 0..9 10"),
        ({"repetition": np.arange(4)}, "repetition: test_from"),
        ({"letters": None}, "letters:"),
    ],
)
def test_tactile_data(place: Path, arrays: dict[str, np.ndarray | None], words: str) -> None:
    (place / "net.toml").write_text(NETWORK.replace("digits", "braille"))
    names = np.array([chr(ord("@") + n) for n in range(27)])
    whole = {"frames": np.zeros((4, 9, 12), np.uint8), "length": np.full(4, 9), "label": np.arange(4)}
    np.savez("braille.npz", **whole, repetition=np.arange(30, 34), letters=names)
    spoil("braille.npz", arrays)
    refused(place, f"{TRAIN} --data braille.npz", "braille.npz", *words.replace(",", " ").split())


# ---- as a program of its own


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("cost build --core z80", "--core:"),
        ("verify broken --on interpreter", "broken/network.json"),
        ("train --network overflow.toml --out new", "32 bits"),
    ],
)
def test_the_program_says_one_line_too(place: Path, command: str, words: str) -> None:
    """Not even a warning of some library comes with it."""
    (place / "broken").mkdir()
    (place / "overflow.toml").write_text(
        NETWORK.replace("size = 12", "size = 12\nthreshold = 1000\nstates = 2\nstate_range = 1024\ngain = 0.001")
    )
    refused(place, command, words, run=lambda *args: program(*args, cwd=place))

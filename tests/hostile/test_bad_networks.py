"""A network's TOML that cannot be meant is refused in a line that names the field."""

from pathlib import Path

import pytest

from support.commands import EXPORT, NETWORK, TRAIN, refused

# ---- the network's TOML

ALPHA = 'neuron.kind = "alpha"\nneuron.decay = 0.5\n'


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[task]", "[task", "TOML"),
        ('name = "digits"', 'name = "digits', "TOML"),
        ("size = 12", "size = 12\nsize = 13", "TOML"),
        ("size = 12", "size = " + "9" * 5000, "TOML"),
        ("size = 12", "size = " + "[" * 5000, "TOML"),
        ("size = 12", "size = 1979-13-01", "TOML"),
        ("[training]", "[extra]\n[training]", "extra: training"),
        ("[training]", "[[training]]", "training: table"),
        ("[[layer]]", "[[layers]]", "layers: layer?"),
        (NETWORK, "", "task: missing table"),
        (NETWORK, "layer = []", "layer: at least one"),
        (NETWORK, "[layer]\nsize = 3", "layer: at least one"),
        (NETWORK, "layer = [3]", "layer[0]: table, 3"),
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
        ("steps = 4", "delta = 4", "encoder: delta: direct delta"),
        ("steps = 4", 'kind = "delta"\ndelta = 0', "encoder: delta: [1, 0"),
        ("steps = 4", "seed = 1", "encoder: seed: direct rate"),
        ("steps = 4", 'kind = "rate"\nseed = -1', "encoder: seed: [0, -1"),
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
        ("size = 12", "size = 0", "layer[0]: size: [1, 0"),
        ("size = 12", "size = 65537", "layer[0]: size: 65537"),
        ("size = 12", 'size = "12"', "layer[0]: size: integer '12'"),
        ("size = 12", "size = 12.5", "layer[0]: size: integer 12.5"),
        ("size = 12", "size = 12\nwidth = 3", "layer[0]: width: size"),
        ("size = 12", "size = 12\nweights = 9", "layer[0]: weights: learned 9"),
        ("size = 12", "size = 12\nweights = 0", "layer[0]: weights: 0"),
        ("size = 12", "size = 12\nweights = true", "layer[0]: weights: True"),
        ("size = 12", "size = 12\nweights = 4.0", "layer[0]: weights: 4.0"),
        ("size = 12", 'size = 12\nweights = "binary"', "layer[0]: weights: 'binary'"),
        ("size = 12", 'size = 12\nweights = "float"', "layer[1]: weights: float"),
        ("size = 12", 'size = 12\nweights = "ternary"', "layer[0]: weights: 'ternary'"),
        ("size = 12", 'size = 12\nweights = "learned"', "training: budget: learned"),
        ("size = 12", 'size = 12\nweights.quantizer = "brevitas"', "layer[0]: weights: quantizer: maqd 'brevitas'"),
        ("size = 12", 'size = 12\nweights = { quantizer = "mquant", bits = 4 }', "layer[0]: weights: bits: mquant lsq"),
        ("size = 12", 'size = 12\nweights.bits = 1\nweights.quantizer = "maqd"', "layer[0]: weights: bits: 2, 8 1"),
        (
            "size = 12",
            'size = 12\nweights.bits = 5\nweights.quantizer = "dq-power"',
            "layer[0]: weights: bits: [2, 4], 5",
        ),
        ("size = 12", "size = 12\nstates = 1", "layer[0]: states: [2, 16], 1"),
        ("size = 12", "size = 12\nstates = 17", "layer[0]: states: 17"),
        ("size = 12", 'size = 12\nstates.quantizer = "pact"', "layer[0]: states: quantizer: squat-zero 'pact'"),
        (
            "size = 12",
            'size = 12\nstates.quantizer = "shared"\nstates.membrane = 1',
            "layer[0]: states: membrane: [2, 16], 1",
        ),
        (
            "size = 12",
            'size = 12\nstates.quantizer = "squat"\nstates.membrane = 9',
            "layer[0]: states: membrane: [1, 8], 9",
        ),
        ("size = 12", 'size = 12\nstates.gradient = "identity"', "layer[0]: states: gradient: uniform squat"),
        (
            "size = 12",
            'size = 12\nstates = { quantizer = "squat", gradient = "soft" }',
            "layer[0]: gradient: clip, identity 'soft'",
        ),
        (
            "size = 12",
            'size = 12\nstates.quantizer = "dq"\nneuron.threshold_per = "neuron"',
            "layer[0]: threshold_per: dq",
        ),
        ("size = 12", 'size = 12\nstates.quantizer = "dq"\nnorm = "layer-batch"', "layer[0]: norm: dq"),
        ("size = 12", 'size = 12\nstates.quantizer = "squat"\nneuron.spikes = 2', "layer[0]: spikes: squat"),
        ("size = 12", 'size = 12\nnorm = "group"', "layer[0]: norm: batch layer-batch psp 'group'"),
        ("size = 12", 'size = 12\nstates.quantizer = "dq"\nnorm = "batch"', "layer[0]: norm: dq"),
        (
            "size = 12",
            'size = 12\nweights.quantizer = "maqd"\nweights.standardize = true',
            "layer[0]: standardize: maqd",
        ),
        ("size = 12", 'size = 12\nweights.bits = "learned"\nweights.standardize = true', "layer[0]: weights: learned"),
        ("size = 12", 'size = 12\nweights = "learned"\nnorm = "psp"', "layer[0]: weights: bits: learned"),
        ("recurrent = true", 'recurrent = true\nneuron = "step"', "layer[0]: recurrent: step"),
        *(
            ("recurrent = true", f'neuron = {{ kind = "step", {name} = {value} }}', f"layer[0]: neuron: {name}: step")
            for name, value in (
                ("decay", "0.5"),
                ("synapse", '"exponential"'),
                ("adaptation", "0.5"),
                ("refractory", "1"),
                ("reset", '"zero"'),
                ("timing", '"immediate"'),
            )
        ),
        ("size = 12", "size = 12\nneuron.spikes = 0", "layer[0]: spikes: [1, 15], 0"),
        ("size = 12", "size = 12\nneuron.spikes = 16", "layer[0]: spikes: [1, 15], 16"),
        ("size = 12", "size = 12\nstates = [8]", "layer[0]: states: [8]"),
        ("size = 12", "size = 12\nneuron.threshold = 0", "layer[0]: threshold: 0"),
        ("size = 12", "size = 12\nneuron.threshold = -1.0", "layer[0]: threshold: -1.0"),
        ("size = 12", "size = 12\nneuron.threshold = nan", "layer[0]: threshold: nan"),
        ("size = 12", "size = 12\nneuron.threshold = inf", "layer[0]: threshold: inf"),
        ("size = 12", "size = 12\nweights.gain = 0.0", "layer[0]: gain: 0.0"),
        ("size = 12", "size = 12\nneuron.decay = 1.5", "layer[0]: decay: 1.5"),
        ("size = 12", 'size = 12\nneuron.decay = "0.9"', "layer[0]: decay: number '0.9'"),
        ("size = 12", "size = 12\nneuron.decay_bits = 13", "layer[0]: decay_bits: 13"),
        ("size = 12", "size = 12\nstates.range = 0.5", "layer[0]: states: range: 0.5"),
        ("size = 12", 'size = 12\nweights.scale = "tensor"', "layer[0]: scale: 'tensor'"),
        ("size = 12", 'size = 12\nneuron.reset = "hard"', "layer[0]: reset: 'hard'"),
        ("size = 12", 'size = 12\nneuron.timing = "soon"', "layer[0]: timing: 'soon'"),
        ("size = 12", 'size = 12\nneuron = "hodgkin"', "layer[0]: neuron: lif 'hodgkin'"),
        ("size = 12", 'size = 12\nneuron = "li"', "layer[0]: neuron: readout last"),
        ("size = 12", 'size = 12\nneuron.pool = "max"', "layer[0]: pool: li"),
        *(
            ("size = 12", f"size = 12\n{options}", f"layer[0]: {words}")
            for options, words in (
                ('neuron.synapse = "alpha"', "synapse: exponential 'alpha'"),
                ("neuron.synapse_decay = 0.5", "neuron: synapse_decay: lif alpha"),
                ("neuron.synapse.decay = 1.1", "synapse: decay: [0, 1.1"),
                (
                    'neuron.synapse = "exponential"\nstates.quantizer = "squat"\nstates.membrane = 1',
                    "states: current: 2 bits 1",
                ),
                ("neuron.adaptation = -1", "adaptation: (0, 1000], -1"),
                ("neuron.adaptation = 1\nneuron.spikes = 2", "spikes: adaptation one spike 2"),
                (
                    'neuron.adaptation = 1\nstates.quantizer = "squat"\nstates.membrane = 1',
                    "states: adaptation: 2 bits 1",
                ),
                ("neuron.adaptation.decay = 0.5", "neuron: adaptation: amount: missing"),
                ("neuron.refractory = 256", "refractory: [0, 255], 256"),
                ("neuron.refractory = 1.5", "refractory: integer 1.5"),
                ("neuron.refractory = 1\nneuron.spikes = 2", "spikes: refractory one spike 2"),
                ('neuron.reset = "zero"\nneuron.timing = "snntorch"', "timing: zero delayed, immediate 'snntorch'"),
                ('neuron.reset = "none"\nneuron.timing = "snntorch"', "timing: none delayed, immediate 'snntorch'"),
                (
                    'neuron.reset = "zero-before"\nneuron.timing = "immediate"',
                    "timing: zero-before delayed 'immediate'",
                ),
                ('neuron.reset = "zero-before"\nneuron.timing = "snntorch"', "timing: zero-before delayed 'snntorch'"),
                ('neuron.timing = "snntorch"\nneuron.adaptation = 1', "timing: snnTorch adaptation"),
                ('neuron.timing = "snntorch"\nneuron.refractory = 1', "timing: snnTorch refractory"),
                ('neuron.timing = "snntorch"\nneuron.spikes = 2', "timing: snnTorch one spike"),
                (f'{ALPHA}neuron.reset = "subtract"', "reset: zero, none, 'subtract'"),
                (f'{ALPHA}neuron.timing = "immediate"', "timing: alpha lif, count"),
                (f"{ALPHA}neuron.synapse = 0.9", "synapse: alpha lif, li, count"),
                (f'{ALPHA}states = "squat"', "states: quantizer: alpha uniform squat"),
                (f"{ALPHA}neuron.spikes = 2", "spikes: alpha lif"),
                (f"{ALPHA}neuron.adaptation = 1", "adaptation: alpha lif"),
                (f"{ALPHA}neuron.refractory = 1", "refractory: alpha lif"),
                (f"{ALPHA}neuron.synapse_decay = 0.5", "synapse_decay: alpha above decay, 0.5, 0.5"),
            )
        ),
        (
            "size = 12",
            "size = 12\nneuron.threshold = 1000\nstates.membrane = 2\nstates.range = 1024\nweights.gain = 0.001",
            "hidden 32 bits",
        ),
        ("recurrent = true", "recurrent = 1", "layer[0]: recurrent: true 1"),
        ('neuron = "li"', "", "layer[1]: neuron: readout last"),
        ('neuron = "li"', 'neuron = "li"\nrecurrent = true', "layer[1]: recurrent: li"),
        ('neuron = "li"', 'neuron.kind = "count"\nneuron.pool = "max"', "layer[1]: pool: li"),
        ('neuron = "li"', 'neuron.kind = "li"\nneuron.spikes = 2', "layer[1]: spikes: li"),
        ('neuron = "li"', 'neuron = "li"\nnorm = "batch"', "layer[1]: norm: readout"),
        ('neuron = "li"', 'neuron = "li"\nnorm = "layer-batch"', "layer[1]: norm: readout"),
        ('neuron = "li"', 'neuron.kind = "li"\nneuron.adaptation = 1', "layer[1]: adaptation: li"),
        ('neuron = "li"', 'neuron.kind = "li"\nneuron.refractory = 1', "layer[1]: refractory: li"),
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

"""Networks that are more than a chain, as TOML."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tomli_w
import torch

from quantal.export.base.fixed import Ints
from quantal.qat.arithmetic.neurons import RESETTING
from quantal.qat.config import config_file
from quantal.qat.config.parts.network import Config
from quantal.qat.network.network import SpikingNetwork
from support.layers import replace

INPUTS, MOST, STEPS, SAMPLES = 64, 16, 9, 5


def made(settings: Config, seed: int = 0) -> tuple[SpikingNetwork, Ints]:
    """The network, with what training would have moved moved, and an input."""
    network = SpikingNetwork(replace(settings, training=replace(settings.training, seed=seed)), INPUTS, MOST)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in network.stack:
            if layer.bias is not None:
                layer.bias.copy_(0.3 * torch.randn(layer.rows, generator=generator))
            if layer.threshold is not None:
                layer.threshold.mul_(0.7 + 0.6 * torch.rand(layer.threshold.shape, generator=generator))
            layer.unit_gain.mul_(0.9 + 0.2 * torch.rand(layer.unit_gain.shape, generator=generator))
    x = np.random.default_rng(seed).integers(0, MOST, (SAMPLES, STEPS, INPUTS), endpoint=True)
    with torch.no_grad():
        network.begin_norms(torch.as_tensor(x, dtype=torch.float32))
    return network, x


HEAD = '[task]\nname = "digits"\n[encoder]\nkind = "direct"\nsteps = 6\n'
CONV = (
    '[[layer]]\nname = "image"\nconnection = "conv"\nshape = [1, 8, 8]\nchannels = 4\nkernel = [3]\n'
    "weights.gain = 4.0\n"
)
OUT = '[[layer]]\nname = "out"\nsize = 10\nneuron = "li"\nstates.range = 32.0\n'

GRAPHS = {
    "planes": CONV
    + """
padding = [1]
[[layer]]
name = "half"
connection = "pool"
kernel = [2]
[[layer]]
name = "grouped"
connection = "conv"
channels = 6
groups = 2
kernel = [3, 2]
stride = [2, 1]
padding = [1, 0]
neuron.decay_per = "neuron"
weights.gain = 4.0
"""
    + OUT,
    "line": """
[[layer]]
name = "line"
connection = "conv"
shape = [2, 32]
channels = 5
kernel = [4]
stride = [3]
padding = [1]
bias = false
neuron.threshold_per = "layer"
weights = { gain = 4.0, bits = 2 }
[[layer]]
name = "sums"
connection = "pool"
kernel = [3]
stride = [2]
[[layer]]
name = "deep"
connection = "conv"
channels = 3
kernel = [2]
weights = { gain = 4.0, scale = "layer", bits = 8, quantizer = "dq-kmeans" }
[[layer]]
name = "out"
size = 10
neuron = "count"
weights.gain = 4.0
""",
    "delays": """
[[layer]]
name = "early"
size = 9
delays = [0, 1, 4]
weights.gain = 4.0
[[layer]]
name = "fed"
size = 7
inputs = ["early", "input"]
delays = [2]
recurrent = "diagonal"
weights.gain = 4.0
[[layer]]
name = "out"
size = 10
inputs = ["fed", "early"]
delays = [0, 3]
neuron = "li"
states.range = 32.0
""",
    "residual": CONV
    + """
[[layer]]
name = "inner"
connection = "conv"
channels = 4
kernel = [3]
padding = [1]
norm = "psp"
weights.gain = 4.0
[[layer]]
name = "block"
connection = "conv"
channels = 4
kernel = [3]
padding = [1]
norm = "psp"
add = "image"
weights.gain = 4.0
[[layer]]
name = "again"
connection = "conv"
channels = 4
kernel = [1]
add = "block"
weights = { gain = 2.0, bits = 8 }
[[layer]]
name = "dense"
size = 8
weights.gain = 4.0
[[layer]]
name = "other"
size = 8
recurrent = true
add = "dense"
weights.gain = 4.0
"""
    + OUT,
    "normalized": CONV
    + """
norm = "batch"
[[layer]]
name = "second"
connection = "conv"
channels = 4
kernel = [2]
stride = [2]
norm = "layer-batch"
weights = "maqd"
[[layer]]
name = "table"
connection = "conv"
channels = 4
kernel = [2]
weights.gain = 4.0
states = { quantizer = "aligned", membrane = 3 }
"""
    + OUT,
}

BRANCHES: dict[str, dict[str, Any]] = {  # of neurons in one kind of layer, one beside the other
    **{
        f"{reset}_{timing}".replace("-", "_"): {"neuron": {"reset": reset, "timing": timing}}
        for reset, timing in RESETTING
    },
    "synapse": {"neuron": {"synapse": "exponential"}},
    "adaptive": {"neuron": {"adaptation": 0.5, "timing": "immediate"}},
    "refractory": {"neuron": {"refractory": 2}},
    "no_leak": {"neuron": {"decay": 1.0}},
    **{
        name: {
            "neuron": {"kind": "alpha", "reset": reset, "synapse_decay": 0.9, "decay": 0.7},
            "states": {"range": 16.0},
        }
        for name, reset in (("alpha", "zero"), ("alpha_unreset", "none"))
    },
    "step": {"neuron": "step"},
    "several": {"neuron": {"spikes": 3}, "states": {"range": 8.0}},
}
LAYERS: dict[str, dict[str, Any]] = {  # the kinds of layers that neurons are in
    "planes": {"connection": "conv", "channels": 2, "kernel": [2]},
    "line": {"connection": "conv", "channels": 2, "kernel": [5], "stride": [4]},
    "dense": {"size": 4},
    "recurrent": {"size": 4, "recurrent": True},
    "diagonal": {"size": 4, "recurrent": "diagonal"},
    "delayed": {"size": 4, "delays": [0, 2]},
    "added": {"size": 4, "add": "image"},
}
SEEN = {  # what they see
    "line": CONV.replace("[1, 8, 8]", "[1, 64]") + "stride = [7]\n",
    "added": '[[layer]]\nname = "image"\nsize = 4\n',
}
READOUTS: dict[str, dict[str, Any]] = {  # what sees them
    "planes": {"neuron": "li", "states": {"range": 32.0}, "connection": "conv", "shape": [2, 2, 2], "kernel": [2]},
    "line": {"neuron": "count", "connection": "conv", "shape": [2, 4], "kernel": [4]},
    "delayed": {"neuron": "count", "delays": [1, 3]},
}


def _neurons(kind: str) -> str:
    """Every neuron, reset and timing in that kind of layer, but that step neurons have no recurrent weights."""
    branches = {k: options for k, options in BRANCHES.items() if k != "step" or "recurrent" not in LAYERS[kind]}
    layers = [{"name": k, "inputs": ["image"], "weights": {"gain": 6.0}} | LAYERS[kind] | branches[k] for k in branches]
    together = {"name": "all", "inputs": [*branches], "size": 8, "weights": {"gain": 6.0}}
    out = {"name": "out"} | READOUTS.get(kind, {"neuron": "li", "states": {"range": 32.0}})
    out["channels" if "kernel" in out else "size"] = 10
    return SEEN.get(kind, CONV + "stride = [2]\n") + tomli_w.dumps({"layer": [*layers, together, out]})


GRAPHS |= {f"neurons_{kind}": _neurons(kind) for kind in LAYERS}


def graph(name: str, change: Callable[[str], str] = lambda text: text) -> Config:
    """The configuration of that name, for 64 inputs up to 16."""
    return config_file.loads(change(HEAD + GRAPHS[name]), name)

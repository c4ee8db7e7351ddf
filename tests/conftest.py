"""What the tests share: one thread (two workers share two cores), small networks and the kinds of neurons.

`OMP_NUM_THREADS` asks for more threads, of torch and of the engine alike.
"""

import os
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from no_skips import pytest_sessionfinish as pytest_sessionfinish
from quantal.export.base.errors import BadInput
from quantal.export.base.fixed import Ints
from quantal.qat.arithmetic.neurons import NEURONS, RESETTING, SYNAPSES
from quantal.qat.config import rules
from quantal.qat.config.schema import Config, Encoder, Layer, Task, Training
from quantal.qat.engine import cpu
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.quantizers.states import AFTER_RESET, STATE_QUANTIZERS

os.fsync = lambda handle: None  # what tests write need not outlive a power cut, and disks are slow
THREADS = int(os.environ.get("OMP_NUM_THREADS", "1"))
torch.set_num_threads(THREADS)
cpu.set_threads(THREADS)

# of neurons, beside how they are reset
KINDS: dict[str, dict[str, Any]] = {
    "synapse": {"synapse": "exponential"},
    "synapses": {"synapse": "exponential", "decay_per": "neuron", "timing": "immediate"},
    "adaptive": {"adaptation": 0.6},
    "adaptive-at-once": {"adaptation": 0.3, "timing": "immediate", "reset": "zero"},
    "refractory": {"refractory": 2},
    "refractory-at-once": {"refractory": 1, "timing": "immediate"},
    "no-leak": {"decay": 1.0},
    "no-leak-table": {"decay": 1.0, "state_quantizer": "squat", "states": 4, "threshold_per": "auto"},
    "all": {"synapse": "exponential", "adaptation": 0.4, "refractory": 1, "reset": "zero-before"},
    "alpha": {"neuron": "alpha", "reset": "zero", "decay": 0.6, "threshold": 0.3, "state_range": 16.0},
    "alpha-never-reset": {
        "neuron": "alpha", "reset": "none", "decay": 0.3, "decay_per": "neuron", "state_range": 8.0,
    },
}  # fmt: skip


@st.composite
def neuron_options(draw: st.DrawFn, neuron: str, state_quantizer: str, states: int | str) -> dict[str, Any]:
    """How a neuron integrates, fires and is reset: any way that a configuration may ask for."""
    if NEURONS[neuron].stateless:
        return {"spikes": draw(st.integers(1, 4))}
    alpha, tabled = neuron == "alpha", STATE_QUANTIZERS[state_quantizer] is not None and states != "float"
    spikes = 1 if tabled or alpha or not NEURONS[neuron].fires else draw(st.integers(1, 4))
    synapse = "none" if alpha or states == 1 else draw(st.sampled_from(SYNAPSES))
    reset, timing = draw(
        st.sampled_from(
            [
                (reset, timing)
                for reset, timing in RESETTING
                if not alpha or (reset in ("zero", "none") and timing == "delayed")
                if states != 1 or timing != "immediate" or state_quantizer in AFTER_RESET
                if spikes == 1 or timing != "snntorch"
            ]
        )
    )
    remembers = NEURONS[neuron].fires and not alpha and spikes == 1 and timing != "snntorch"
    adaptation = draw(st.sampled_from([0.0, 0.5, 3.0])) if remembers and states != 1 else 0.0
    decays = st.just(1.0) | st.floats(0, 1)
    decay = draw(st.floats(0, 0.99) if alpha else decays)
    return {
        "decay": decay,
        "spikes": spikes,
        "synapse": synapse,
        "synapse_decay": draw(
            st.floats(decay, 1, exclude_min=True) if alpha else st.just(0.8) if synapse == "none" else decays
        ),
        "reset": reset,
        "timing": timing,
        "adaptation": adaptation,
        "adaptation_decay": draw(decays if adaptation else st.just(0.95)),
        "refractory": draw(st.integers(0, 3)) if remembers else 0,
    }


def small_config(*layers: Layer, seed: int = 0, budget: int = 0) -> Config:
    """A valid configuration of these layers."""
    config = Config(task=Task("digits"), encoder=Encoder(), layers=layers, training=Training(seed=seed, budget=budget))
    rules.check(config, "test")
    return config


def random_network(*layers: Layer, channels: int, maximum: int, seed: int, budget: int = 0) -> SpikingNetwork:
    """A network of these layers with every parameter moved away from its start, as training would."""
    network = SpikingNetwork(small_config(*layers, seed=seed, budget=budget), channels, maximum)
    rng = torch.Generator().manual_seed(seed + 1)

    def uniform(like: torch.Tensor, lo: float, hi: float) -> torch.Tensor:
        return torch.rand(like.shape, generator=rng) * (hi - lo) + lo

    with torch.no_grad():
        for layer in network.stack:
            spread = layer.weight.abs().max()
            layer.weight += uniform(layer.weight, -0.5, 0.5) * spread
            for decay in layer.decays.values():
                decay.copy_(uniform(decay, 0, 1))
            if layer.unit_gain.requires_grad:  # it stays 1 in full precision
                layer.unit_gain *= uniform(layer.unit_gain, 0.5, 2)
            if layer.recurrent is not None:
                layer.recurrent += uniform(layer.recurrent, -0.5, 0.5) * layer.recurrent.abs().max()
            if layer.threshold is not None:
                layer.threshold *= uniform(layer.threshold, 0.2, 2)
            if layer.adaptation is not None:
                layer.adaptation *= uniform(layer.adaptation, 0, 2)
            if layer.bias is not None:
                layer.bias += uniform(layer.bias, -0.3, 0.3) * layer.config.threshold
            if layer.ranges is not None:
                layer.ranges += uniform(layer.ranges, -0.5, 0.5) * layer.ranges.abs()
            if layer.norm is not None:  # a negative gain negates a row, and its sign ends in the codes
                layer.norm.gain *= uniform(layer.norm.gain, -2, 2)
                layer.norm.mean += uniform(layer.norm.mean, -0.5, 0.5)
                layer.norm.variance *= uniform(layer.norm.variance, 0.1, 2)
            if layer.psp is not None:  # a negative gain negates a column
                layer.psp.gain *= uniform(layer.psp.gain, -2, 2)
                layer.psp.moment *= uniform(layer.psp.moment, 0.1, 2)
            for name, parameter in layer.quantizer.named_parameters():
                if name == "reach_gain":
                    parameter *= uniform(parameter, 0.5, 2)
    network.project()
    return network


def random_input(samples: int, steps: int, channels: int, maximum: int, seed: int) -> Ints:
    """Random integers (samples, steps, channels); the first two samples are all 0 and all `maximum`."""
    x = np.random.default_rng(seed).integers(0, maximum, (samples, steps, channels), np.int64, endpoint=True)
    x[0], x[1] = 0, maximum
    return x


def one_line(error: pytest.ExceptionInfo[BadInput], *words: str) -> str:
    """The message of a refusal: one line that holds all the words."""
    line = str(error.value)
    assert len(line.splitlines()) == 1, ascii(line)
    for word in words:
        assert word in line, ascii(line)
    return line

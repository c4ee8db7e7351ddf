"""What the tests share: one thread (two workers share two cores) and small networks."""

import os

import numpy as np
import pytest
import torch

from export.errors import BadInput
from export.fixed import Ints
from qat import config as configuration
from qat import engine
from qat.config import Config, Encoder, Layer, Task, Training
from qat.network import SpikingNetwork

torch.set_num_threads(1)
engine.set_threads(1)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """On CI nothing may be skipped for want of a tool."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def small_config(*layers: Layer, seed: int = 0, budget: int = 0) -> Config:
    """A valid configuration of these layers."""
    config = Config(task=Task("digits"), encoder=Encoder(), layers=layers, training=Training(seed=seed, budget=budget))
    configuration.check(config, "test")
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
            layer.decay.copy_(uniform(layer.decay, 0, 1))
            if layer.unit_gain.requires_grad:  # it stays 1 in full precision
                layer.unit_gain *= uniform(layer.unit_gain, 0.5, 2)
            if layer.recurrent is not None:
                layer.recurrent += uniform(layer.recurrent, -0.5, 0.5) * layer.recurrent.abs().max()
            if layer.threshold is not None:
                layer.threshold *= uniform(layer.threshold, 0.2, 2)
            if layer.bias is not None:
                layer.bias += uniform(layer.bias, -0.3, 0.3) * layer.config.threshold
            if layer.ranges is not None:
                layer.ranges += uniform(layer.ranges, -0.5, 0.5) * layer.ranges.abs()
            if layer.norm is not None:  # a negative gain negates a row, and its sign ends in the codes
                layer.norm.gain *= uniform(layer.norm.gain, -2, 2)
                layer.norm.mean += uniform(layer.norm.mean, -0.5, 0.5)
                layer.norm.variance *= uniform(layer.norm.variance, 0.1, 2)
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

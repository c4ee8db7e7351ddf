"""Surrogate gradients: the formulas of their papers, in torch and in the fused engine, and what they are worth."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from quantal.qat.arithmetic.surrogates import SURROGATES, Surrogate
from quantal.qat.arithmetic.torch_ops import TorchOps
from quantal.qat.network.network import SpikingNetwork
from support.engines import assert_equal, both, input_of, layer_of
from support.layers import a_layer, replace
from support.torch_networks import small_config


def gauss(x: Tensor, mean: float, deviation: float) -> Tensor:
    return torch.exp(-((x - mean) ** 2) / (2 * deviation**2)) / (deviation * math.sqrt(2 * math.pi))


FORMULAS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "fast-sigmoid": lambda x, k: 1 / (1 + k * x.abs()) ** 2,
    "arctan": lambda x, k: 1 / (1 + (math.pi / 2 * k * x) ** 2),
    "triangular": lambda x, k: (1 - k * x.abs()).clamp(min=0),
    "s2nn": lambda x, k: torch.where(x > 0, k / 4 / (1 + x), k * torch.sigmoid(k * x) * (1 - torch.sigmoid(k * x))),
    "multi-gaussian": lambda x, k: (
        0.5 * (1.15 * gauss(x, 0, 1 / k) - 0.15 * gauss(x, 1 / k, 6 / k) - 0.15 * gauss(x, -1 / k, 6 / k))
    ),
}


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("slope", [0.5, 2.0, 7.0])
def test_a_spikes_derivative_is_the_formula_of_the_distance_in_thresholds(name: str, slope: float) -> None:
    threshold = torch.tensor([40.0], dtype=torch.float64, requires_grad=True)
    level = torch.linspace(-60, 160, 331, dtype=torch.float64).requires_grad_()
    spike = TorchOps(Surrogate(name, slope)).gt(level, threshold)
    weights = torch.linspace(0.5, 2, 331, dtype=torch.float64)
    by_level, by_threshold = torch.autograd.grad((spike * weights).sum(), (level, threshold))
    expected = weights * FORMULAS[name]((level.detach() - 40) / 40, slope) / 40
    torch.testing.assert_close(by_level, expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(by_threshold, -expected.sum()[None])
    assert torch.equal(spike, (level > 40).double())


def test_the_one_of_s2nn_is_continuous_and_the_triangle_ends() -> None:
    at = torch.tensor([-1e-9, 1e-9], dtype=torch.float64)
    below, above = FORMULAS["s2nn"](at, 4.0).tolist()
    assert below == pytest.approx(above) == pytest.approx(1.0)
    level = torch.tensor([31.0, 33.0], dtype=torch.float64, requires_grad=True)
    spike = TorchOps(Surrogate("triangular", 5.0)).gt(level, torch.tensor(40.0, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(spike.sum(), level)
    assert (gradient > 0).tolist() == [False, True]


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_surrogate_is_the_same_in_the_fused_engine(name: str, dtype: torch.dtype) -> None:
    layer, network = layer_of(3, 6, 3, recurrent=True, threshold=0.4)
    network.ops = TorchOps(Surrogate(name, 3.0))
    fused, reference = both(layer, network, input_of(2, (12, 19, 6), 3, 0.4, dtype))
    assert all(float(fused[part].abs().sum()) > 0 for part in ("output", "weight", "recurrent", "threshold"))
    assert_equal(fused, reference, exact=True)


def test_the_configuration_chooses_it() -> None:
    layers = a_layer("hidden", 5), a_layer("readout", 3, neuron="li")
    config = small_config(*layers)
    for name in SURROGATES:
        chosen = replace(config, training=replace(config.training, surrogate=name, slope=2.5))
        assert SpikingNetwork(chosen, 4, 1).ops.surrogate == Surrogate(name, 2.5)

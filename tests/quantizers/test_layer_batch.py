"""Layer-batch normalization folds into thresholds, and its kept moments are what is deployed."""

from typing import Any

import numpy as np
import pytest
import torch

from quantal.qat.lower import exact_dtype, lower
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.network.trace import hard_trace
from support.layers import a_layer
from support.quantizers import uniform
from support.torch_networks import random_input, small_config

# ---- layer-batch normalization


def normalized(seed: int) -> SpikingNetwork:
    """Neurons without a memory, their state grid as fine as an accumulator: they compare a current with a threshold."""
    options: dict[str, Any] = {"decay": 0.0, "reset": "none", "states": 16, "state_range": 32.0}
    hidden = a_layer("hidden", 24, weights=4, norm="layer-batch", gain=2.0, **options)
    network = SpikingNetwork(small_config(hidden, a_layer("readout", 2, neuron="li"), seed=seed), 12, 8)
    layer = network.stack[0]
    assert layer.norm is not None
    assert layer.bias is not None
    assert layer.threshold is not None
    with torch.no_grad():
        layer.norm.gain.copy_(uniform(-2, 2, 24, seed=seed))
        layer.norm.gain[0] = 0
        layer.norm.mean.fill_(0.3)
        layer.norm.variance.fill_(0.4)
        layer.bias.copy_(uniform(-0.5, 0.5, 24, seed=seed + 1))
        layer.bias[0] = 2.0  # with no gain it is all there is
        layer.threshold.copy_(uniform(0.5, 1.5, 24, seed=seed + 2))
    return network


@pytest.mark.parametrize("seed", range(4))
def test_layer_batch_normalization_folds_into_thresholds(seed: int) -> None:
    network = normalized(seed)
    layer = network.stack[0]
    x = random_input(60, 4, 12, 8, seed)
    spikes = hard_trace(network, x, exact_dtype(lower(network, "network")))["hidden.spike"]
    with torch.no_grad():
        scale = (layer.unit * 2.0 ** int(layer.shifts[0])).double().squeeze(1)
        codes = layer.quantizer.codes(layer.weight, scale[:, None].float(), 0).double()
        gamma, theta, beta = layer.norm.gain.double(), layer.threshold.double(), layer.bias.double()  # type: ignore
        mean, deviation = float(layer.norm.mean), np.sqrt(float(layer.norm.variance) + 1e-5)  # type: ignore
        acc = torch.from_numpy(x).double() @ codes.t()
        # With real thresholds, up to what rounding threshold and bias to accumulator units may change.
        y = gamma * (acc * scale - mean) / deviation + beta
        unit = layer.unit.squeeze(1) * (gamma.abs() / deviation).clamp(min=1 / 64)
        far = (y - theta).abs() > 1.01 * unit
        assert far.double().mean() > 0.99
        assert torch.equal(torch.from_numpy(spikes)[far] == 1, (y > theta)[far])
        # With integer ones: t = ((θ − β) σ̃ / γ + μ) / s.
        t = ((theta - beta) * deviation / gamma + mean) / scale
        clear = (t - t.round()).abs() > 1.01 * 2.0 ** -int(layer.shifts[0])
        fires = torch.where(gamma > 0, acc >= t.ceil(), acc <= t.floor())
    fires[..., 0] = True  # γ = 0: a constant, β > θ
    clear[0] = True
    assert torch.equal(torch.from_numpy(spikes == 1)[..., clear], fires[..., clear])
    for sign in (-1, 1):
        moved = [float(fires[..., k].double().mean()) for k in range(24) if clear[k] and gamma[k] * sign > 0]
        assert sum(0 < rate < 1 for rate in moved) > 2


def test_batch_moments_train_and_kept_ones_are_deployed() -> None:
    network = normalized(9)
    layer = network.stack[0]
    assert layer.norm is not None
    x = torch.from_numpy(random_input(20, 4, 12, 8, 0)).float()
    steps = x.transpose(0, 1)
    deployed = layer.integers()
    scale = (layer.unit * 2.0 ** int(layer.shifts[0])).detach()
    z = steps @ (layer.quantizer.codes(layer.weight, scale, 0) * scale).t().detach()
    kept = layer.norm.mean.clone(), layer.norm.variance.clone()
    with torch.no_grad():
        network(x, {})
    assert (layer.norm.mean, layer.norm.variance) == kept  # deployed, it keeps what it has
    network.train()
    with torch.no_grad():
        network(x, {})
        moments = z.mean(), z.var(correction=0)
        for before, after, moment in zip(kept, (layer.norm.mean, layer.norm.variance), moments, strict=True):
            assert abs(float(moment - before)) > 0.05
            torch.testing.assert_close(after, 0.9 * before + 0.1 * moment)
        training = layer.integers(steps)
        network.eval()
        layer.norm.mean.copy_(moments[0])
        layer.norm.variance.copy_(moments[1])
        same = layer.integers()
    for got, other, differs in ((training, same, False), (training, deployed, True)):
        tables = [(i.bias, i.params.threshold) for i in (got, other)]
        off = max(float((a - b).detach().abs().max()) for a, b in zip(*tables, strict=True))
        assert (off > 1) == differs

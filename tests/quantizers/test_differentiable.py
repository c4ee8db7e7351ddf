"""Differentiable quantization: its formulas, its borders, and the hand-over from soft to hard."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from quantal.qat.arithmetic.grids import SoftGrid, TableGrid
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.quantizers.states import differentiable
from quantal.qat.quantizers.weights import WEIGHT_QUANTIZERS, Differentiable, sum_of_sigmoids
from support.layers import a_layer, replace
from support.quantizers import OPS, gaussian, gradient, learn, quantized, tiny, uniform
from support.torch_networks import random_input, small_config

# ---- differentiable quantization

POWERS = torch.tensor([-4.0, -2, -1, 0, 1, 2, 4], dtype=torch.float64)
MIDDLES, GAPS = (POWERS[1:] + POWERS[:-1]) / 2, POWERS.diff()


def soft_formula(x: Tensor, borders: Tensor, gaps: Tensor, sharpness: float) -> Tensor:
    """Σ s σ(T(x − b)) − ½Σs, written down."""
    return (gaps * torch.sigmoid(sharpness * (x[:, None] - borders))).sum(1) - gaps.sum() / 2


@pytest.mark.parametrize("soft", [False, True])
def test_the_sum_of_sigmoids_and_its_gradient_are_the_formulas(soft: bool) -> None:
    x = uniform(-5, 5, 500).requires_grad_()
    got = sum_of_sigmoids(x, MIDDLES, GAPS, 1.2, soft)  # within ±10, so that nothing is clamped
    formula = soft_formula(x, MIDDLES, GAPS, 1.2)
    nearest = POWERS[(x[:, None].detach() - POWERS).abs().argmin(1)]
    torch.testing.assert_close(got, formula if soft else nearest, rtol=0, atol=1e-12)
    weighting = gaussian(500)
    torch.testing.assert_close(gradient(got * weighting, x), gradient(formula * weighting, x), rtol=0, atol=1e-12)


def test_the_sum_of_sigmoids_becomes_a_strict_step() -> None:
    x = uniform(-5, 5, 2000)
    hard = sum_of_sigmoids(x, MIDDLES, GAPS, 1.0, False)
    away = (x[:, None] - MIDDLES).abs().amin(1) > 0.1
    errors = [
        float((sum_of_sigmoids(x, MIDDLES, GAPS, sharpness, True) - hard)[away].abs().max())
        for sharpness in (1.0, 3.0, 10.0, 30.0, 100.0)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.5
    assert errors[-1] < 1e-3
    at = torch.stack([MIDDLES, MIDDLES + 1e-9])
    torch.testing.assert_close(sum_of_sigmoids(at, MIDDLES, GAPS, 1.0, False), torch.stack([POWERS[:-1], POWERS[1:]]))


def test_differentiable_weights_have_their_levels() -> None:
    levels = {name: [make(bits).levels for bits in widths] for name, (make, widths) in WEIGHT_QUANTIZERS.items()}
    assert levels["dq"][:3] == levels["dq-kmeans"][:3] == [(-1, 1), (-1, 0, 1), (-3, -2, -1, 0, 1, 2, 3)]
    assert levels["dq-power"][:2] == [(-1, 0, 1), tuple(POWERS.tolist())]
    for name, widths in ((name, WEIGHT_QUANTIZERS[name][1]) for name in ("dq", "dq-kmeans", "dq-power")):
        for bits, expected in zip(widths, levels[name], strict=True):
            assert len(expected) <= 2**bits
            network = tiny(weight_quantizer=name, weights=bits, size=40, inputs=50)
            found = network.stack[0].integers().codes.unique().tolist()
            assert set(found) <= set(expected)
            assert {expected[0], expected[-1]} <= set(found) or bits > 4


def test_differentiable_weights_begin_with_the_borders_of_the_paper() -> None:
    for name in ("dq", "dq-power", "dq-kmeans"):
        for bits in (2, 3):
            layer = tiny(weight_quantizer=name, weights=bits, inputs=50).stack[0]
            quantizer, w = layer.quantizer, layer.weight.detach()
            assert isinstance(quantizer, Differentiable)
            beta = 1.25 * quantizer.levels[-1] / w.abs().amax(1, keepdim=True)
            torch.testing.assert_close(quantizer.reach_start, 1 / beta)
            codes = layer.integers().codes
            levels = torch.tensor(quantizer.levels, dtype=torch.float32)
            if name != "dq-kmeans":
                assert torch.equal(quantizer.borders, (levels[1:] + levels[:-1]) / 2)
            assert torch.equal(codes, levels[((w * beta)[..., None] > quantizer.borders).sum(-1)])


def test_k_means_borders_lie_alike_on_both_sides() -> None:
    """The levels do: else weights around 0 would all gain, and a recurrent layer would excite itself."""
    for bits in (1, 3, 4):
        borders = tiny(weight_quantizer="dq-kmeans", weights=bits, inputs=60).stack[0].quantizer.borders
        assert torch.equal(borders, -borders.flip(0))


def test_k_means_borders_follow_the_weights() -> None:
    """Half of them near ±1/8 of the greatest: there the clusters are, and not at the levels."""
    layer = tiny(weight_quantizer="dq-kmeans", weights=2, inputs=60).stack[0]
    w = torch.where(torch.rand(5, 60, generator=torch.Generator().manual_seed(0)) < 0.5, 0.125, 1.0)
    layer.quantizer.begin(torch.cat([w, -w], dim=1), True)
    assert isinstance(layer.quantizer, Differentiable)
    assert float(layer.quantizer.borders[1]) not in (0.5, -0.5)
    beta = 1.25
    low, high = layer.quantizer.borders.tolist()
    assert (low < 0 < high, abs(low) < beta, abs(high) < beta) == (True, True, True)


def test_a_soft_network_is_handed_over_to_a_hard_one() -> None:
    """At a low temperature what was trained is not what is deployed; the higher it is, the less they differ.

    At T = 1 by 0.13 to 0.47 with seeds 0 to 19, at T = 1000 by 0.08 of that at most.
    """
    options: dict[str, Any] = {"weight_quantizer": "dq", "weights": 3, "states": 16, "state_range": 16.0}
    readout = a_layer("readout", 3, neuron="li", **options)  # alone, for a spike more or less is no small difference
    config = small_config(readout)
    network = SpikingNetwork(replace(config, training=replace(config.training, forward="soft")), 20, 1).double()
    x = torch.from_numpy(random_input(32, 6, 20, 1, 0)).double()
    learn(network, x, 8)
    (layer,), codes, outputs = network.stack, [], []
    for temperature in (1.0, 10.0, 100.0, 1000.0):
        layer.anneal(temperature, soft=True)
        results = []
        for training in (True, False):
            network.train(training)
            results.append((layer.integers().codes.detach(), network(x, {}).detach()))
        (soft, soft_output), (hard, hard_output) = results
        assert torch.equal(hard, hard.round())
        codes.append(float((soft - hard).abs().mean()))
        outputs.append(float((soft_output - hard_output).abs().mean() / hard_output.abs().mean()))
    for differ in (codes, outputs):
        assert differ == sorted(differ, reverse=True)
        assert differ[0] > 0.05
        assert differ[-1] < 0.3 * differ[0]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_differentiable_states_are_the_formula_in_both_forwards(bits: int) -> None:
    """α Σ s σ(T(βu − b)), and the gradient to β: of all borders and the sharpness, which move together."""
    quantizer, reach, alpha, sharpness = differentiable(bits), 65.0, 7.0, 1.5
    assert quantizer.middles is not None
    reference = 1.0
    ranges = torch.tensor([alpha, np.log(reach)], dtype=torch.float64, requires_grad=True)
    levels, borders = quantizer.integers(ranges, reference)
    grid = TableGrid(0, len(levels), "soft", borders, levels, ranges[1], torch.tensor(sharpness / reach))
    u = uniform(-4 * reach, 4 * reach, 300).requires_grad_()
    size = torch.tensor(np.log(reach), requires_grad=True)
    steps = torch.sigmoid(sharpness * (u[:, None] / size.exp() - quantizer.middles))
    formula = alpha * (steps.sum(1) + (1 - 2 ** (bits - 1)))
    weighting = gaussian(300)
    expected = gradient(formula * weighting, u, size)
    soft = SoftGrid(grid, grid.sharpness)
    torch.testing.assert_close(soft.decode(OPS, soft.encode(OPS, u)), formula, rtol=0, atol=5e-3)  # for clamping
    for kind in (grid, soft):
        got = torch.autograd.grad(
            (kind.decode(OPS, kind.encode(OPS, u)) * weighting).sum(), [u, ranges], retain_graph=True
        )
        torch.testing.assert_close(got[0], expected[0], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(got[1][1], expected[1], rtol=1e-3, atol=1e-5)
        # α: what each level is multiplied by, of the level that is nearest.
        integers = (u[:, None].detach() / reach > quantizer.middles).sum(1) + (1 - 2 ** (bits - 1))
        torch.testing.assert_close(got[1][0], (integers * weighting).sum())
    strict = quantized(grid, borders - 1), quantized(grid, borders)
    assert torch.equal(strict[0], levels[:-1])
    assert torch.equal(strict[1], levels[1:])


def test_the_temperature_rises_with_the_epochs_up_to_an_end() -> None:
    network = tiny(weight_quantizer="dq", weights=3, temperature=300.0, forward="soft")
    for epoch, sharpness in enumerate((300, 600, 900, 1000, 1000)):
        network.anneal(epoch)
        for layer in network.stack:
            assert isinstance(layer.quantizer, Differentiable)
            assert (layer.quantizer.sharpness, layer.quantizer.soft) == (sharpness, True)


def test_states_are_soft_in_training_alone_and_where_it_is_asked_for() -> None:
    for forward in ("hard", "soft"):
        network = tiny(state_quantizer="dq", states=3, forward=forward)
        network.anneal(0)
        for training in (False, True):
            network.train(training)
            kinds = {type(layer.integers().params.grid) for layer in network.stack}
            assert kinds == {SoftGrid if training and forward == "soft" else TableGrid}
    x = torch.from_numpy(random_input(8, 6, 10, 1, 0)).float()
    record: dict[str, Tensor] = {}
    network(x, record)
    assert not torch.equal(record["hidden.u"], record["hidden.u"].round())
    network.eval()
    network(x, record)
    assert set(record["hidden.u"].unique().tolist()) <= set(range(8))

"""Quantizers of weights and states: levels, borders, gradients and starts, against the formulas they are known by."""

import inspect
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import KINDS, one_line, random_input, small_config
from hypothesis import given, settings
from hypothesis import strategies as st
from quantal.export import network_file
from quantal.export.base.errors import BadInput
from quantal.qat.arithmetic.grids import SoftGrid, TableGrid
from quantal.qat.arithmetic.neurons import NEURONS, RESETTING, Params
from quantal.qat.arithmetic.torch_ops import TorchOps
from quantal.qat.config.schema import Layer
from quantal.qat.data.registry import load
from quantal.qat.engine import cpu
from quantal.qat.lower import exact_dtype, lower
from quantal.qat.network.layer import SpikingLayer
from quantal.qat.network.network import SpikingNetwork, hard_trace
from quantal.qat.quantizers.normalization import NORMS
from quantal.qat.quantizers.states import (
    AFTER_RESET,
    STATE_QUANTIZERS,
    StateQuantizer,
    aligned,
    aligned_after_reset,
    differentiable,
    squat,
)  # fmt: skip
from quantal.qat.quantizers.weights import WEIGHT_QUANTIZERS, Differentiable, standardized, sum_of_sigmoids
from quantal.qat.training.start import new_run
from snntorch.functional.quant import state_quant
from torch import Tensor
from torch.nn import functional

OPS = TorchOps()
CENTRES = {"uniform": None, "threshold": 1.0, "zero": 0.0}
WEIGHTS = [(name, bits[min(1, len(bits) - 1)]) for name, (_, bits) in WEIGHT_QUANTIZERS.items()] + [("lsq", 1)]


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(lo: float, hi: float, *shape: int, seed: int = 0) -> Tensor:
    return lo + (hi - lo) * torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def table(quantizer: StateQuantizer, reference: float, passes: str = "clip", ranges: Tensor | None = None) -> TableGrid:
    """Its grid, one threshold being `reference` accumulator units; ranges as they are at first."""
    first = torch.tensor(quantizer.first, dtype=torch.float64) if ranges is None else ranges
    levels, borders = quantizer.integers(first, reference)
    return TableGrid(int((borders <= 0).sum()), len(levels), passes, borders, levels)


def quantized(grid: TableGrid, x: Tensor) -> Tensor:
    level: Tensor = grid.decode(OPS, grid.encode(OPS, x))
    return level


def gradient(value: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value.sum(), of)


# ---- SQUAT, against snnTorch


def snntorch(bits: int, centre: str, threshold: float, lower: float, upper: float) -> tuple[Any, Tensor]:
    """snnTorch's quantizer and its levels, which it keeps to itself."""
    q = state_quant(bits, centre == "uniform", centre == "threshold", threshold, lower, upper)
    return q, inspect.getclosurevars(q).nonlocals["levels"]


@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize("bits", range(1, 9))
def test_squat_has_the_levels_of_snntorch(bits: int, centre: str) -> None:
    for threshold in (1.0, 0.3, 5.0):
        for limits in ((0.0, 0.2), (0.1, 0.5), (0.7, 0.05)):
            _, expected = snntorch(bits, centre, threshold, *limits)
            levels = squat(bits, CENTRES[centre], *limits).levels(torch.zeros(0)) * threshold
            assert len(levels) == 2**bits
            # Evenly spaced ones near 0 are what cancels of the ends in float32.
            torch.testing.assert_close(levels.float(), expected, rtol=1e-6, atol=1e-6 * threshold / 4)


def test_squat_has_the_levels_that_are_published_for_4_bits() -> None:
    expected = [
        -1,
        1e-4,
        0.5001,
        0.7501,
        0.8751,
        0.9376,
        0.9689,
        0.9845,
        0.9923,
        0.9962,
        0.9982,
        0.9991,
        0.9996,
        0.9999,
    ]
    levels = squat(4, 1.0).levels(torch.zeros(0))
    np.testing.assert_allclose(levels, [*expected, 1.0667, 1.2], atol=5e-5)


@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize("bits", range(1, 9))
def test_squat_quantizes_membranes_as_snntorch_does(bits: int, centre: str) -> None:
    q, levels = snntorch(bits, centre, 1.0, 0.0, 0.2)
    u = uniform(-2, 2, 3000, seed=bits)
    ties = (levels[1:].double() + levels[:-1]) / 2
    u = u[(u[:, None] - ties).abs().amin(1) > 1e-6]
    assert len(u) > 2900
    reference, ours, theirs = 2.0**24, u.clone().requires_grad_(), u.clone().requires_grad_()
    got = quantized(table(squat(bits, CENTRES[centre]), reference, "identity"), ours * reference) / reference
    torch.testing.assert_close(got, q(theirs).double(), rtol=0, atol=2e-7)
    weighting = gaussian(len(u)).float().double()
    for passed in (*gradient(got * weighting, ours), *gradient(q(theirs) * weighting, theirs)):
        assert torch.equal(passed, weighting)


def test_a_clipped_gradient_differs_from_the_identity_exactly_outside_the_levels() -> None:
    for quantizer in (squat(3, 1.0), squat(5, None), aligned(4)):
        passed = []
        for passes in ("clip", "identity"):
            grid = table(quantizer, 1000, passes)
            lowest, highest = float(grid.levels[0]), float(grid.levels[-1])
            ends = [end + d for end in (lowest, highest) for d in (-1, 0, 1)]
            u = torch.cat([torch.tensor(ends), uniform(-3000, 3000, 500).round()]).requires_grad_()
            passed += gradient(quantized(grid, u), u)
        outside = (u < lowest) | (u > highest)
        assert torch.equal(passed[0], (~outside).double())
        assert torch.equal(passed[1], torch.ones_like(u))
        assert 0 < outside.sum() < len(u)


# ---- the aligned grid


def ranges_between(quantizer: StateQuantizer, drawn: tuple[float, ...]) -> Tensor:
    """Its ranges, each at a share of what there is between its ends: the narrow ones above all."""
    least, most = (torch.tensor(ends, dtype=torch.float64) for ends in (quantizer.least, quantizer.most))
    return least + (most - least) * torch.tensor(drawn[: len(least)], dtype=torch.float64) ** 4


@settings(max_examples=200, deadline=None)
@given(
    bits=st.integers(1, 8),
    drawn=st.tuples(*[st.floats(0, 1)] * 3),
    reference=st.integers(1, 1 << 24),
)
def test_the_aligned_grid_holds_zero_and_fires_strictly_above_its_threshold(
    bits: int, drawn: tuple[float, ...], reference: int
) -> None:
    quantizer = aligned(bits)
    ranges = ranges_between(quantizer, drawn)
    grid = table(quantizer, reference, ranges=ranges)
    levels, borders = grid.levels, grid.borders
    assert (len(levels), len(borders)) == (2**bits, 2**bits - 1)
    for integers in (levels, borders):
        assert torch.equal(integers, integers.round())
        assert (integers.diff() >= 0).all()
    real = quantizer.levels(ranges) * reference
    real[quantizer.above :].clamp_(min=reference + 1)  # those above it are above it, however near they would be
    apart = real.diff() >= 1
    assert (levels.diff()[apart] > 0).all()
    if apart.all():  # no two levels are one, so no two borders are
        assert (borders.diff() > 0).all()
        assert (quantized(grid, levels) == levels).all()
    assert levels[grid.start] == 0
    assert quantized(grid, torch.zeros(1)) == 0
    assert reference + 1 in borders
    u = torch.tensor([0.0, reference - 1, reference, reference + 1, reference + 2], dtype=torch.float64)
    assert (quantized(grid, u) > reference).tolist() == [False, False, False, True, True]
    if bits > 1:
        assert levels[0] == torch.floor(0.5 - ranges[0] * reference)
    assert levels[-1] == max(reference + 1, int(ranges[-1] * reference + 0.5))


@pytest.mark.parametrize("bits", range(3, 9))
def test_the_aligned_levels_are_densest_at_the_threshold(bits: int) -> None:
    quantizer = aligned(bits)
    levels = quantizer.levels(torch.tensor(quantizer.first))
    gaps, above = levels.diff(), int((levels > 1).nonzero()[0])
    below, inner, upper = gaps[levels[1:] <= 0], gaps[(levels[1:] > 0) & (levels[1:] <= 1)], gaps[above:]
    assert (upper.diff() > 0).all()  # the further above, the sparser
    assert levels[above] - 1 < inner.min()  # the first above it is nearer than those below are to each other
    torch.testing.assert_close(inner, inner[:1].expand_as(inner))
    assert (below >= inner.max() * (1.99 if bits > 3 else 0.99)).all()  # below 0 they are sparser
    for reference in (2.0 ** (bits + 4), 2.0**20):
        grid = table(quantizer, reference)
        assert (grid.levels.diff() > 0).all()
        assert (grid.borders.diff() > 0).all()


@settings(max_examples=200, deadline=None)
@given(bits=st.integers(1, 8), drawn=st.tuples(*[st.floats(0, 1)] * 2), reference=st.integers(1, 1 << 24))
def test_after_a_reset_the_aligned_grid_holds_zero_and_all_levels_are_memory(
    bits: int, drawn: tuple[float, ...], reference: int
) -> None:
    quantizer = aligned_after_reset(bits)
    grid = table(quantizer, reference, ranges=ranges_between(quantizer, drawn))
    levels, borders = grid.levels, grid.borders
    assert (len(levels), len(borders)) == (2**bits, 2**bits - 1)
    assert torch.equal(levels, levels.round())
    assert levels[grid.start] == 0
    assert quantized(grid, torch.zeros(1)) == 0
    assert torch.equal(borders, torch.ceil((levels[1:] + levels[:-1]) / 2))  # none for the threshold's sake
    first = quantizer.levels(torch.tensor(quantizer.first, dtype=torch.float64))
    zero = int((first == 0).nonzero())
    assert (first.diff()[zero:] < first[0].abs() + 1e-12).all() if zero else bits == 1
    assert (first[:zero].diff() > first.diff()[zero:].max()).all()  # below 0 they are sparser
    assert (first < 1).all()


def test_a_neuron_that_is_reset_at_once_fires_on_what_is_not_quantized() -> None:
    """Exactly above its threshold, whatever levels lie next to it."""
    grid = table(aligned_after_reset(2), 100)  # -100, 0, 40, 80
    params = Params(
        threshold=torch.tensor(100.0), decay=torch.tensor(0.0), decay_bits=0, grid=replace(grid, after_reset=True),
        reset="subtract", timing="immediate",
    )  # fmt: skip
    current = torch.tensor([99.0, 100, 101, 119, 120, 121, 160, 300])
    spike, state = NEURONS["lif"].step(OPS, current, {"u": torch.zeros(len(current), dtype=torch.int64)}, params)
    assert spike.tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    assert grid.decode(OPS, state["u"]).tolist() == [80, 80, 0, 0, 40, 40, 80, 80]


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
    readout = Layer("readout", 3, neuron="li", **options)  # alone, for a spike more or less is no small difference
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


# ---- how weight quantizers begin


def tiny(
    *, inputs: int = 10, size: int = 5, readout: str = "li", forward: str = "hard", temperature: float = 10.0,
    **options: Any,
) -> SpikingNetwork:  # fmt: skip
    """A small network, both layers with these options; what only a hidden layer takes goes to it alone."""
    alone = {"norm", "recurrent", "neuron"}
    alone |= {"spikes", "adaptation", "adaptation_decay", "refractory"} if readout == "li" else set()
    alone |= {"synapse_decay"} if "synapse" not in options else set()
    last = {name: value for name, value in options.items() if name not in alone}
    layers = Layer("hidden", size, **{"gain": 3.0} | options), Layer("readout", 3, neuron=readout, **last)
    config = small_config(*layers)
    config = replace(config, training=replace(config.training, forward=forward, temperature=temperature))
    return SpikingNetwork(config, inputs, 1)


@pytest.mark.parametrize("scale", ["row", "layer"])
def test_weights_begin_at_the_scales_of_their_papers(scale: str) -> None:
    for name, bits in WEIGHTS:
        network = tiny(weight_quantizer=name, weights=bits, scale=scale, inputs=80)
        layer = network.stack[0]
        w = layer.weight.detach()
        limit = max(1, 2 ** (bits - 1) - 1)
        match name:
            case "lsq" | "maqd":
                units = w if name == "lsq" else standardized(w)
                expected = 2 * units.abs().mean(1, keepdim=True) / limit**0.5
            case "tquant" | "mquant":
                deviation = w.square().mean(1, keepdim=True).sqrt()
                delta = w.abs().amax(1, keepdim=True) / 3 if name == "tquant" else 0.43073 * deviation
                above = w.abs() > delta
                expected = (w.abs() * above).sum(1, keepdim=True) / above.sum(1, keepdim=True)
                if scale == "row":
                    assert torch.equal(layer.integers().codes, w.sign() * above)
            case _:
                reach = w.abs().amax(1, keepdim=True) / (1.25 * layer.quantizer.levels[-1])
                borders, gaps = layer.quantizer.borders, layer.quantizer.gaps
                codes = (gaps * (w[:, :, None] / reach[:, :, None] > borders)).sum(2) - gaps.sum() / 2
                expected = (w * codes).sum(1, keepdim=True) / codes.square().sum(1, keepdim=True)  # least squares
        found = layer.unit.detach() * 2.0 ** int(layer.shifts[0])
        torch.testing.assert_close(found, expected if scale == "row" else expected.mean(0, keepdim=True))


def test_binary_weights_are_signs() -> None:
    layer = tiny(weights=1).stack[0]
    with torch.no_grad():
        layer.weight[0, :3] = torch.tensor([0.0, -1e-3, 1e-3])
    codes = layer.integers().codes
    assert codes[0, :3].tolist() == [1, -1, 1]
    assert torch.equal(codes[1:], layer.weight[1:].sign())


def test_weights_are_standardized_row_by_row() -> None:
    w = 3 + 5 * gaussian(4, 50)
    found = standardized(w)
    torch.testing.assert_close(found.mean(1), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.square().sum(1), torch.ones(4, dtype=torch.float64), rtol=1e-4, atol=0)
    expected = (w - w.mean(1, True)) / (50 * w.var(1, correction=0, keepdim=True) + 1e-4).sqrt()
    torch.testing.assert_close(found, expected)
    layer = tiny(weight_quantizer="maqd", weights=3).stack[0]
    codes = layer.integers().codes
    with torch.no_grad():
        layer.weight.copy_(layer.weight * 7 + 2)  # of which it knows nothing, but for the 10⁻⁴
    assert (layer.integers().codes != codes).float().mean() < 0.05


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("scale", ["row", "layer"])
def test_shared_states_have_the_scale_of_the_weights(scale: str, recurrent: bool) -> None:
    """MINT: one scale for weights and membrane, so that a code of either is worth as much, also when it has learned."""
    network = tiny(state_quantizer="shared", states=4, weights=2, scale=scale, recurrent=recurrent)
    learn(network, torch.from_numpy(random_input(16, 6, 10, 1, 0)).float(), 3)
    for layer in network.stack:
        fan_in_shift, _, state_shift = layer.shifts.tolist()
        assert state_shift == fan_in_shift == layer.integers().params.grid.shift
    lowered = lower(network, "network")
    assert all(-8 <= state.lo <= state.hi < 8 for state in (layer.state("u") for layer in lowered.layers))


def fires_and_resets(layer: SpikingLayer) -> bool:
    """Whether some level is above each threshold, which is not 0, and to subtract it at once leaves a lower level."""
    with torch.no_grad():
        params = layer.integers().params
        grid, threshold = params.grid, params.threshold.double()
        if grid.after_reset:  # it fires before its membrane is quantized
            return bool((threshold >= 1).all())
        top, highest = grid.decode(OPS, torch.full_like(threshold, grid.hi)), (2 * params.spikes - 1) * threshold
        told = bool((top > highest).all()) and bool((threshold >= (params.reset == "subtract")).all())
        left = grid.encode(OPS, top - highest)
        if params.spikes > 1:
            return told and bool((threshold >= 1).all())
        return told and (params.reset != "subtract" or params.timing == "delayed" or bool((left < grid.hi).all()))


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize(
    ("quantizer", "bits"), [(name, b) for name in STATE_QUANTIZERS for b in (*range(1, 9), 12, 16)]
)
def test_states_that_are_taken_fire_and_are_reset(quantizer: str, bits: int, recurrent: bool) -> None:
    taken = 0
    for (reset, timing), spikes, wide in itertools.product(RESETTING, (1, 2, 15), (1.0, 8.0, 300.0)):
        options = {"states": bits, "state_quantizer": quantizer, "reset": reset, "timing": timing, "spikes": spikes}
        try:
            layer = tiny(recurrent=recurrent, state_range=wide, **options).stack[0]
            layer.integers()
        except BadInput:
            continue
        taken += 1
        if (quantizer, bits) not in (("squat", 1), ("squat-threshold", 1)):  # as published, a reset is not enough
            assert reset == "none" or fires_and_resets(layer), (options, wide)
    table = STATE_QUANTIZERS[quantizer] is not None
    assert taken or (bits > 8 if table else bits == 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"states": 2}, ["layer hidden: states: 2 bits of shared", "threshold is 0", "resets nothing"]),
        ({"states": 2, "timing": "snntorch"}, ["resets nothing"]),
        ({"states": 3, "spikes": 2, "reset": "zero"}, ["one spike is as many as several"]),
    ],
)
def test_states_without_room_for_a_threshold_are_refused(
    options: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    for precision in ({}, {"weights": "float"}):
        hidden = Layer("hidden", 4, state_quantizer="shared", **precision, **options)
        config = small_config(hidden, Layer("readout", 10, neuron="li", **precision))
        with pytest.raises(BadInput) as error:
            new_run(tmp_path / "run", config, load("digits", None))
        one_line(error, *words)
        assert not (tmp_path / "run").exists()
    alike = tiny(state_quantizer="shared", states=2, reset="zero")
    assert not alike.stack[0].integers().params.threshold.any()  # and only the higher one of two levels fires


@pytest.mark.parametrize(("states", "state_range"), [(2, 4.0), (3, 8.0), (4, 100.0)])
def test_levels_two_thresholds_apart_are_refused_where_a_reset_is_at_once(states: int, state_range: float) -> None:
    with pytest.raises(BadInput) as error:
        tiny(states=states, state_range=state_range, timing="immediate")
    one_line(error, "layer[0]: state_range", f"{states} bits", "rounded away")
    tiny(states=states, state_range=state_range, timing="immediate", reset="zero")
    tiny(states=states, state_range=state_range)  # with the current it is rounded, and counts
    assert fires_and_resets(tiny(states=states, state_range=0.99 * 2**states, timing="immediate").stack[0])


@pytest.mark.parametrize("states", [2, 4, 8, "float"])
@pytest.mark.parametrize("neuron", ["lif", "step"])
@pytest.mark.parametrize("weights", [1, 2, 4, 8])
def test_thresholds_are_fine_however_few_bits_there_are(weights: int, neuron: str, states: int | str) -> None:
    """A threshold of a few units, and a bias and a decay that are rounded to them, cannot be learned."""
    network = tiny(weights=weights, neuron=neuron, recurrent=neuron == "lif", states=states)
    assert 1 / float(network.stack[0].unit.detach().mean()) >= 64 / 2**0.5  # the nearest power of two


# ---- layer-batch normalization


def normalized(seed: int) -> SpikingNetwork:
    """Neurons without a memory, their state grid as fine as an accumulator: they compare a current with a threshold."""
    options: dict[str, Any] = {"decay": 0.0, "reset": "none", "states": 16, "state_range": 32.0}
    hidden = Layer("hidden", 24, weights=4, norm="layer-batch", gain=2.0, **options)
    network = SpikingNetwork(small_config(hidden, Layer("readout", 2, neuron="li"), seed=seed), 12, 8)
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


# ---- no knob without effect


def learn(network: SpikingNetwork, x: Tensor, steps: int, rate: float = 0.02) -> SpikingNetwork:
    """A few steps of training on labels without a meaning."""
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=rate)
    labels = torch.arange(len(x)) % 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "available", lambda: False)
        network.anneal(0)
        network.train()
        for _ in range(steps):
            optimizer.zero_grad()
            functional.cross_entropy(network.logits(x), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            network.project()
        network.eval()
    return network


INPUT = torch.from_numpy(random_input(24, 8, 10, 1, 3)).float()
STATES = [(name, 4 if table is None else 1) for name, table in STATE_QUANTIZERS.items()]
KNOBS = [
    *({"weight_quantizer": name, "weights": bits} for name, bits in WEIGHTS),
    *({"state_quantizer": name, "states": bits + more} for name, bits in STATES for more in (0, 3)),
    *({"state_quantizer": "dq", "states": 3, "forward": forward} for forward in ("hard", "soft")),
    *({"weight_quantizer": "dq", "weights": 3, "forward": forward} for forward in ("hard", "soft")),
    *({"norm": norm} for norm in NORMS[1:]),
    {"norm": "psp", "standardize": True, "weight_quantizer": "dq", "weights": 3},
    {"norm": "layer-batch", "weight_quantizer": "maqd", "weights": 2},
    {"spikes": 3, "state_range": 16.0},
    *({"state_quantizer": "aligned", "states": bits, "timing": "immediate"} for bits in (1, 4)),
    *({"timing": "snntorch"}, {"reset": "zero-before"}),
    *KINDS.values(),
]


@pytest.mark.parametrize("options", KNOBS, ids=lambda options: "-".join(map(str, options.values())))
def test_everything_that_is_learned_moves(options: dict[str, Any]) -> None:
    network = tiny(recurrent=True, readout="count", **options)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    learn(network, INPUT, 8)
    after = dict(network.named_parameters())
    still = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert {name for name in still if name.startswith("layers.0")} == set()
    assert "layers.1.weight" not in still
    first, quantizer = network.stack[0], options.get("weight_quantizer", "lsq")
    own = {name.rpartition(".")[2] for name in before}
    assert ("decay" in own) == (options.get("decay") != 1)
    assert ("synapse_decay" in own) == ("synapse" in options or options.get("neuron") == "alpha")
    assert ({"adaptation", "adaptation_decay"} <= own) == ("adaptation" in options)
    assert ("reach_gain" in own) == (quantizer not in ("lsq", "maqd"))
    assert ("ranges" in own) == (options.get("state_quantizer") in ("aligned", "dq"))
    assert first.ranges is None or (first.ranges != before["layers.0.ranges"]).all()


TABLED = {"state_quantizer": "squat-threshold", "states": 3}
ALPHA = {**KINDS["alpha"], "synapse_decay": 0.8}
CHANGES = [
    ({"weight_quantizer": "dq", "weights": 3}, {"temperature": 2.0}),
    ({"weight_quantizer": "dq", "weights": 3}, {"forward": "soft"}),
    ({"state_quantizer": "dq", "states": 3}, {"temperature": 0.5}),
    ({"state_quantizer": "dq", "states": 3}, {"forward": "soft"}),
    (TABLED, {"state_gradient": "identity"}),
    ({"state_quantizer": "aligned", "states": 3}, {"state_gradient": "identity"}),
    ({}, {"spikes": 3}),
    ({"readout": "count"}, {"spikes": 2}),
    *(({}, {"norm": norm}) for norm in NORMS[1:]),
    ({}, {"standardize": True}),
    ({}, {"neuron": "step"}),
    *(({}, kind) for kind in ({"decay": 1.0}, {"synapse": "exponential"}, {"adaptation": 0.5}, {"refractory": 1})),
    ({"synapse": "exponential"}, {"synapse_decay": 0.5}),
    ({"adaptation": 0.5}, {"adaptation_decay": 0.5}),
    ({"reset": "zero"}, {"reset": "zero-before"}),
    ({"timing": "immediate", "gain": 9.0, "state_range": 8.0}, {"timing": "snntorch"}),
    (ALPHA | {"neuron": "lif"}, ALPHA),
    (ALPHA, {"synapse_decay": 0.9}),
    *(({"weights": bits}, {"weight_quantizer": name, "weights": bits}) for name, bits in WEIGHTS if name != "lsq"),
    *(({"states": 4}, {"states": 4, "state_quantizer": name}) for name, _ in STATES if name != "uniform"),
]  # fmt: skip


@pytest.mark.parametrize(("base", "change"), CHANGES, ids=str)
def test_every_option_changes_what_is_learned(base: dict[str, Any], change: dict[str, Any]) -> None:
    results = [learn(tiny(**options), INPUT, 4).stack[0].weight.detach() for options in (base, base, base | change)]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


# ---- what is learned can be shipped


def assert_read_back(network: SpikingNetwork) -> None:
    written = network_file.dumps(lower(network, "network"))
    assert network_file.dumps(network_file.loads(written, "here")) == written


GRIDS = [(name, "delayed") for name, make in STATE_QUANTIZERS.items() if make is not None]


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize(
    ("quantizer", "timing"), [*GRIDS, *((name, "immediate") for name, make in AFTER_RESET.items() if make)]
)
def test_every_grid_can_be_read_back_from_one_end_of_its_ranges_to_the_other(
    quantizer: str, timing: str, bits: int
) -> None:
    """Levels nearer than an accumulator unit share a border: of several at the threshold, some are never reached."""
    network = tiny(state_quantizer=quantizer, states=bits, timing=timing)
    assert_read_back(network)
    for end in ("least", "most"):
        for layer in network.stack:
            assert layer.state_quantizer is not None
            if layer.ranges is not None:
                with torch.no_grad():
                    layer.ranges.copy_(torch.tensor(getattr(layer.state_quantizer, end)))
        assert_read_back(network)


@pytest.mark.parametrize("quantizer", ["tquant", "dq"])
def test_a_reach_that_training_drives_below_0_is_brought_back(quantizer: str, tmp_path: Path) -> None:
    """Else the run's own checkpoint would be refused."""
    network = tiny(weight_quantizer=quantizer, weights=2)
    for layer in network.stack:
        layer.quantizer.reach_gain.data.fill_(-0.5)
    network.project()
    network.restore(network.state_dict(), tmp_path)
    assert all(bool((layer.quantizer.reach_gain == 1 / 64).all()) for layer in network.stack)

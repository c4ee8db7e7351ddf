"""Grids of states: SQUAT is snnTorch's, and the aligned grid holds zero and its threshold."""

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from snntorch.functional.quant import state_quant
from torch import Tensor

from quantal.qat.arithmetic.neurons import NEURONS, Params
from quantal.qat.quantizers.states import StateQuantizer, aligned, aligned_after_reset, squat
from support.quantizers import OPS, gaussian, gradient, quantized, table, uniform

CENTRES = {"uniform": None, "threshold": 1.0, "zero": 0.0}


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

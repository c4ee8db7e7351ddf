"""How quantizers begin: scales of their papers, and states that leave room for a threshold."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from quantal.export.base.errors import BadInput
from quantal.qat.arithmetic.neurons import RESETTING
from quantal.qat.config.precision import with_precision
from quantal.qat.data.registry import load
from quantal.qat.lower import lower
from quantal.qat.network.layer import SpikingLayer
from quantal.qat.quantizers.states import STATE_QUANTIZERS
from quantal.qat.quantizers.weights import standardized
from quantal.qat.training.start import new_run
from support.layers import a_layer
from support.messages import one_line
from support.quantizers import OPS, WEIGHTS, gaussian, learn, tiny
from support.torch_networks import random_input, small_config


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
    assert all(-8 <= state.lo <= state.hi < 8 for state in (layer.state("u") for layer in lowered.network.layers))


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
    ("quantizer", "bits"),
    [
        (name, b)
        for name, table in STATE_QUANTIZERS.items()
        for b in ((*range(2, 9), 12, 16) if table is None else range(1, 9))
    ],
)
def test_states_that_are_taken_fire_and_are_reset(quantizer: str, bits: int, recurrent: bool) -> None:
    taken = 0
    ranges = (1.0, 8.0, 300.0) if quantizer == "uniform" else (2.0,)  # the others have one of their own
    for (reset, timing), spikes, wide in itertools.product(RESETTING, (1, 2, 15), ranges):
        options = {"states": bits, "state_quantizer": quantizer, "reset": reset, "timing": timing, "spikes": spikes}
        try:
            layer = tiny(recurrent=recurrent, state_range=wide, **options).stack[0]
            layer.integers()
        except BadInput:
            continue
        taken += 1
        if (quantizer, bits) not in (("squat", 1), ("squat-threshold", 1)):  # as published, a reset is not enough
            assert reset == "none" or fires_and_resets(layer), (options, wide)
    assert taken


@pytest.mark.parametrize(
    ("quantizer", "bits"),
    [(name, b) for name, table in STATE_QUANTIZERS.items() for b in ((1,) if table is None else (12, 16))],
)
def test_states_in_bits_that_their_quantizer_does_not_have_are_refused(quantizer: str, bits: int) -> None:
    config = small_config(a_layer("hidden", 4), a_layer("readout", 3, neuron="li"))
    with pytest.raises(BadInput) as error:
        with_precision(config, states=bits, state_quantizer=quantizer)
    one_line(error, f"layer hidden: states: {quantizer} comes in", f"got {bits}")


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
        hidden = a_layer("hidden", 4, state_quantizer="shared", **precision, **options)
        config = small_config(hidden, a_layer("readout", 10, neuron="li", **precision))
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
    one_line(error, "layer[0]: states: range", f"{states} bits", "rounded away")
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

"""Codes that are chosen on data: GPFQ, borders by clusters, and ternary thresholds."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quantal.qat.quantizers.calibration import gpfq, kmeans_borders, mquant, scale_of, tquant
from support.samples import ROW, gaussian, laplace, rounded

# ---- GPFQ


def path_following(w: Tensor, x: Tensor, y: Tensor, quantize: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """GPFQ as it is written down: the codes, and the error of the output that is left, U (rows, samples)."""
    u, q = w.new_zeros(len(w), len(x)), torch.zeros_like(w)
    for t in range(w.shape[1]):
        u += torch.outer(w[:, t], x[:, t])
        norm = y[:, t] @ y[:, t]
        q[:, t] = quantize(w[:, t] if norm == 0 else u @ y[:, t] / norm)
        u -= torch.outer(q[:, t], y[:, t])
    return q, u


def scaled(weights: Tensor, bits: int) -> tuple[Callable[[Tensor], Tensor], Tensor, int]:
    """Real weights to the nearest representable ones with one scale a row; the scales (rows, 1), and the limit."""
    limit = 2 ** (bits - 1) - 1
    scale = scale_of(weights, limit, per_row=True)
    return (
        lambda w: (scale[:, 0] if w.ndim == 1 else scale) * rounded(limit)(w / (scale[:, 0] if w.ndim == 1 else scale)),
        scale,
        limit,
    )


def spikes(samples: int, channels: int, seed: int) -> Tensor:
    """Correlated spikes (samples, channels), as few as a busy layer's."""
    latent = gaussian(samples, 6, seed=seed) @ gaussian(6, channels, seed=seed + 1)
    return (latent + gaussian(samples, channels, seed=seed + 2) > 2).double()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_gpfq_is_what_is_written_down_and_accounts_for_the_whole_error(bits: int) -> None:
    w, x = gaussian(10, 30), spikes(200, 30, seed=1)
    y = torch.where(
        gaussian(200, 30, seed=9) > 1.5, 1 - x, x
    )  # the layers before are quantized, and some spikes differ
    y[:, [3, 20]] = 0  # silent after quantization,
    x[:, 20] = 0  # and one of them before it too
    quantize, _, _ = scaled(w, bits)
    q, u = path_following(w, x, y, quantize)
    torch.testing.assert_close(u, w @ x.t() - q @ y.t(), rtol=0, atol=1e-12)
    torch.testing.assert_close(gpfq(w, x, y, quantize), q, rtol=0, atol=1e-12)


def test_gpfq_rounds_where_inputs_are_orthogonal() -> None:
    w = gaussian(6, 9)
    quantize, _, _ = scaled(w, 3)
    inputs = torch.linalg.qr(gaussian(20, 9, seed=1)).Q
    for x in (torch.eye(9, dtype=torch.float64), 5 * inputs):
        assert torch.equal(gpfq(w, x, x, quantize), quantize(w))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_gpfq_beats_rounding(bits: int) -> None:
    w = gaussian(16, 60)
    quantize, _, _ = scaled(w, bits)
    for x in (spikes(400, 60, seed=1), gaussian(40, 60, seed=5).clamp(min=0)):
        path, plain = (((q - w) @ x.t()).square().sum() for q in (gpfq(w, x, x, quantize), quantize(w)))
        assert path < 0.8 * plain


def test_gpfq_makes_up_for_inputs_that_quantization_changed() -> None:
    w, x = gaussian(16, 60), spikes(400, 60, seed=1)
    y = torch.where(gaussian(400, 60, seed=9) > 2, 1 - x, x)
    quantize, _, _ = scaled(w, 4)
    knows, not_knows = (
        (w @ x.t() - q @ y.t()).square().sum() for q in (gpfq(w, x, y, quantize), gpfq(w, x, x, quantize))
    )
    assert knows < 0.9 * not_knows


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), bits=st.integers(2, 5), gain=st.sampled_from([0.0, 1.0, 8.0]))
def test_gpfq_keeps_to_the_codes(seed: int, bits: int, gain: float) -> None:
    w, x = gaussian(4, 12, seed=seed), spikes(40, 12, seed=seed)
    quantize, scale, limit = scaled(w, bits)
    codes = gpfq(w, gain * x, x, quantize) / scale
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-9)
    assert codes.abs().max() <= limit + 1e-9
    if gain == 8:  # what it is to make up for is out of reach
        assert codes.abs().max() >= limit - 1e-9


def test_gpfq_keeps_the_nearest_code_of_a_silent_column() -> None:
    w, x = gaussian(5, 8) + 2, spikes(50, 8, seed=3)
    x[:, 4] = 0
    quantize, _, _ = scaled(w, 4)
    q, rest = gpfq(w, x, x, quantize), [0, 1, 2, 3, 5, 6, 7]
    assert torch.equal(q[:, 4], quantize(w)[:, 4])
    assert q[:, 4].count_nonzero() == 5
    assert torch.equal(q[:, rest], gpfq(w[:, rest], x[:, rest], x[:, rest], quantize))


def test_gpfq_takes_spikes_as_bytes_and_float32_gives_the_codes_of_float64() -> None:
    w, x = gaussian(16, 60), spikes(1000, 60, seed=1)
    quantize, _, _ = scaled(w, 3)
    exact = gpfq(w, x, x, quantize)
    assert torch.equal(gpfq(w, x.byte(), x.byte(), quantize), exact)
    torch.testing.assert_close(gpfq(w.float(), x, x, lambda v: quantize(v.double()).float()), exact.float())


# ---- borders


def test_borders_separate_clusters() -> None:
    centres = torch.tensor([-3.0, -1.0, 0.5, 4.0, 9.0], dtype=torch.float64)
    jitter = torch.linspace(-0.05, 0.05, 41, dtype=torch.float64)
    values = (centres[:, None] + jitter).flatten()[torch.randperm(205, generator=torch.Generator().manual_seed(0))]
    borders = kmeans_borders(values.reshape(5, 41), 5)
    torch.testing.assert_close(borders, (centres[1:] + centres[:-1]) / 2, rtol=0, atol=1e-12)
    assert torch.equal(kmeans_borders(values.flip(0), 5), borders)


def test_borders_are_the_same_again() -> None:
    values = laplace(2000)
    first = kmeans_borders(values, 15)
    assert all(torch.equal(kmeans_borders(values, 15), first) for _ in range(2))


def test_borders_heed_how_often_a_value_occurs() -> None:
    often = torch.tensor([0.0] * 98 + [1.0] * 2 + [10.0])
    torch.testing.assert_close(kmeans_borders(often, 2), torch.tensor([(0.02 + 10) / 2]))


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.integers(-50, 50), min_size=2, max_size=40), count=st.integers(1, 8))
def test_borders_ascend_and_part_the_values(values: list[int], count: int) -> None:
    sample = torch.tensor(values, dtype=torch.float32)
    if len(set(values)) < count:
        with pytest.raises(ValueError, match=f"at least {count} distinct ones, got {len(set(values))}"):
            kmeans_borders(sample, count)
        return
    borders = kmeans_borders(sample, count)
    assert borders.shape == (count - 1,)
    assert (borders.diff() > 0).all()
    assert len(torch.bucketize(sample, borders).unique()) == count


# ---- ternary thresholds


def test_tquant_parts_the_range_in_three() -> None:
    weights = torch.tensor([[3.0, -1.5, 1.0, 0.5], [-0.6, 0.3, 0.1, 0.0]])
    delta, scale = tquant(weights, per_row=True)
    torch.testing.assert_close(delta, torch.tensor([[1.0], [0.2]]))
    torch.testing.assert_close(scale, torch.tensor([[2.25], [0.45]]))
    delta, scale = tquant(weights)
    assert (delta.item(), scale.item()) == (1, 2.25)


@pytest.mark.parametrize(("shape", "sample"), [("gaussian", gaussian), ("laplace", laplace)])
def test_mquant_parts_the_mass_in_three(shape: str, sample: Callable[..., Tensor]) -> None:
    weights = sample(2, 90_000) * torch.tensor([[0.3], [5.0]])
    delta, scale = mquant(weights, shape, per_row=True)
    deviation = math.sqrt(2 / 9 / weights.shape[1])  # of a share of 1/3
    for side in (weights < -delta, weights.abs() <= delta, weights > delta):
        assert ((side.double().mean(1) - 1 / 3).abs() < 4 * deviation).all()
    for row in range(2):
        sizes = weights[row].abs()
        torch.testing.assert_close(scale[row, 0], sizes[sizes > delta[row]].mean())
    torch.testing.assert_close(mquant(weights[:1], shape), (delta[:1], scale[:1]))
    factor = {"gaussian": 0.4307, "laplace": 0.2867}[shape]
    torch.testing.assert_close(delta, factor * weights.std(1, keepdim=True), rtol=5e-4, atol=0)


@given(values=ROW)
def test_ternary_scales_are_the_best_of_their_codes(values: list[float]) -> None:
    weights = torch.tensor(values, dtype=torch.float64)
    for delta, scale in (tquant(weights), mquant(weights), mquant(weights, "laplace")):
        assert scale > 0
        codes = weights.sign() * (weights.abs() > delta)
        assert bool(codes.any()) == bool(weights.any())  # only zeros become nothing but zeros
        if codes.any():
            torch.testing.assert_close(scale, ((weights * codes).sum() / codes.square().sum()).reshape(1))
        else:
            assert scale == 1


def test_mquant_knows_two_shapes() -> None:
    with pytest.raises(ValueError, match="gaussian or laplace, got 'cauchy'"):
        mquant(torch.ones(2), "cauchy")

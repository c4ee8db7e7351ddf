"""Post-training quantization: what each range, scale, border and code promises, against a slow way to the same."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quantal.qat.arithmetic.torch_ops import round_half_up
from quantal.qat.quantizers.calibration import (
    InHindsight,
    best_scale,
    gpfq,
    kmeans_borders,
    min_max,
    mquant,
    mse_range,
    percentile,
    scale_of,
    tquant,
)
from support.samples import ROW, gaussian, laplace, rounded

METHODS = ("minmax", "percentile", "mse")


def outliers(*shape: int) -> Tensor:
    values = gaussian(*shape)
    values[..., ::40] *= 25
    return values


SAMPLES = {"gaussian": gaussian, "laplace": laplace, "outliers": outliers}


def nearest(levels: list[float]) -> Callable[[Tensor], Tensor]:
    """The nearest of any levels."""
    grid = torch.tensor(levels, dtype=torch.float64)
    return lambda w: grid[(w[..., None] - grid).abs().argmin(-1)]


def error(weights: Tensor, scale: Tensor, quantize: Callable[[Tensor], Tensor], per_row: bool = True) -> Tensor:
    """The squared error of each row, or of all."""
    squares = (scale * quantize(weights / scale) - weights).double() ** 2
    return squares.sum(1, keepdim=True) if per_row else squares.sum().reshape(1, 1)


def brute_force(
    weights: Tensor, quantize: Callable[[Tensor], Tensor], largest: float, per_row: bool = True, count: int = 6000
) -> Tensor:
    """The least error of `count` evenly spaced scales."""
    peak = weights.abs().amax(1, keepdim=True) if per_row else weights.abs().max()
    factors = torch.linspace(1.05 / count, 1.05, count, dtype=torch.float64)
    return torch.stack([error(weights, peak / largest * f, quantize, per_row) for f in factors]).amin(0)


CODES = st.sampled_from([1, 3, 7, 127])


# ---- ranges


def test_results_broadcast_keep_the_dtype_and_carry_no_gradient() -> None:
    for dtype in (torch.float32, torch.float64):
        values = gaussian(3, 4, 5, dtype=dtype).requires_grad_()
        for per_row, shape in ((True, (3, 1, 1)), (False, (1, 1, 1))):
            found = [
                *min_max(values, per_row), *percentile(values, 0.9, per_row), *InHindsight(0.5, per_row).update(values),
                *mse_range(values, lambda v, lo, hi: v.clamp(lo, hi), per_row),
                *tquant(values, per_row), *mquant(values, "laplace", per_row),
                *(scale_of(values, 3, method, per_row) for method in METHODS),
            ]  # fmt: skip
            assert {(tuple(t.shape), t.dtype, t.requires_grad) for t in found} == {(shape, dtype, False)}
        matrix = values.reshape(3, 20)
        inputs = gaussian(30, 20)
        for codes in (gpfq(matrix, inputs, inputs, torch.round), kmeans_borders(values, 4)):
            assert (codes.dtype, codes.requires_grad) == (dtype, False)


def test_min_max_of_all_and_of_each_row() -> None:
    values = torch.tensor([[3.0, -1.0, 2.0], [0.5, 0.25, 7.0]])
    assert [end.tolist() for end in min_max(values)] == [[[-1.0]], [[7.0]]]
    assert [end.tolist() for end in min_max(values, per_row=True)] == [[[-1.0], [0.25]], [[3.0], [7.0]]]


def test_a_percentile_leaves_outliers_out() -> None:
    values = torch.arange(1000.0)[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    assert [float(end) for end in percentile(values, 0.9)] == [50, 949]
    spoilt = torch.stack([torch.where(values == 999, 1e6, values), torch.where(values == 0, -1e6, values)])
    assert [end.flatten().tolist() for end in percentile(spoilt, 0.9, per_row=True)] == [[50, 50], [949, 949]]
    assert percentile(spoilt, 1.0) == min_max(spoilt) == (torch.tensor([[-1e6]]), torch.tensor([[1e6]]))
    for share in (0.0, -0.5, 1.5, math.nan):
        with pytest.raises(ValueError, match="share"):
            percentile(values, share)


@settings(max_examples=200, deadline=None)
@given(values=ROW, share=st.floats(0.01, 1))
def test_a_percentile_holds_its_share_and_its_ends_are_of_the_sample(values: list[float], share: float) -> None:
    lo, hi = map(float, percentile(torch.tensor(values), share))
    inside = sum(lo <= value <= hi for value in values)
    assert {lo, hi} <= set(values)
    assert inside >= share * len(values) * (1 - 1e-12)


def test_hindsight_follows_its_recursion_and_no_later_batch_sees_itself() -> None:
    eta, batches = 0.75, [gaussian(2, 50, seed=k) * (1 + k) for k in range(5)]
    for per_row in (False, True):
        running = InHindsight(eta, per_row)
        lo, hi = min_max(batches[0], per_row)
        for k, batch in enumerate(batches):
            used = running.update(batch)
            assert torch.equal(used[0], lo)  # what the batches before left, and of the first its own
            assert torch.equal(used[1], hi)
            if k:
                lo, hi = (
                    eta * old + (1 - eta) * new for old, new in zip((lo, hi), min_max(batch, per_row), strict=True)
                )
            assert running.range is not None
            torch.testing.assert_close(running.range, (lo, hi), rtol=1e-15, atol=0)
            lo, hi = running.range


def test_hindsight_does_not_drift() -> None:
    running, batch = InHindsight(0.9), torch.tensor([-0.1, 0.3])
    for _ in range(100):
        running.update(batch)
    assert running.range == min_max(batch)


# ---- scales


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=3), limit=CODES, per_row=st.booleans())
def test_scales_are_positive_and_finite_and_mse_is_never_worse(
    rows: list[list[float]], limit: int, per_row: bool
) -> None:
    width = max(map(len, rows))
    weights = torch.tensor([row + [0.0] * (width - len(row)) for row in rows])
    errors = {}
    for method in METHODS:
        scale = scale_of(weights, limit, method, per_row)
        assert scale.isfinite().all()
        assert (scale > 0).all()
        errors[method] = error(weights, scale, rounded(limit), per_row)
    assert (errors["mse"] <= errors["minmax"] * (1 + 1e-12)).all()


@pytest.mark.parametrize("method", METHODS)
def test_zeros_have_the_scale_one(method: str) -> None:
    weights = torch.tensor([[0.0, 0.0], [0.5, -1.0]])
    assert scale_of(weights, 1, method, per_row=True)[0].tolist() == [1]
    assert scale_of(weights * 0, 7, method).tolist() == [[1]]
    assert scale_of(weights * 1e-45, 127, method) > 0  # the smallest float32 there is, and none is 1/127 of it


def test_min_max_and_percentile_scales() -> None:
    weights = torch.arange(-999.0, 1001)[None] / 8  # |w| to 125, each but 0 and 125 twice
    assert scale_of(weights, 4, "minmax").item() == 125 / 4
    assert scale_of(weights, 4, "percentile", share=0.9).item() == 900 / 8 / 4
    spoilt = torch.where(weights == 125, 1e6, weights)
    assert scale_of(spoilt, 4, "percentile", share=0.9).item() == 900 / 8 / 4
    assert scale_of(spoilt, 4, "percentile").item() == 999 / 8 / 4  # 99.9 %: two of the 2000 may go
    assert scale_of(spoilt, 4, "minmax").item() == 1e6 / 4
    sparse = torch.zeros(1, 5000)
    sparse[0, 7] = -3
    assert scale_of(sparse, 6, "percentile").item() == 0.5  # the percentile is 0: the greatest instead


def test_bad_arguments_of_scales() -> None:
    weights = torch.ones(2, 2)
    with pytest.raises(ValueError, match="minmax, percentile or mse, got 'l2'"):
        scale_of(weights, 3, "l2")
    with pytest.raises(ValueError, match="share"):
        scale_of(weights, 3, "percentile", share=0)
    for method in METHODS:
        with pytest.raises(ValueError, match="largest level"):
            scale_of(weights, 0, method)


@pytest.mark.parametrize("unit", [2.0**80, 2.0**-80])
def test_everything_goes_with_the_unit(unit: float) -> None:
    weights = gaussian(3, 50, dtype=torch.float32)

    def found(w: Tensor) -> list[Tensor]:
        scales = [scale_of(w, 3, method, per_row=True) for method in METHODS]
        return [*scales, *mse_range(w, on_grid(4)), *tquant(w), *mquant(w, per_row=True), kmeans_borders(w, 4)]

    for here, there in zip(found(weights), found(weights * unit), strict=True):
        assert torch.equal(here * unit, there)


@pytest.mark.parametrize("limit", [1, 3, 7, 127])
@pytest.mark.parametrize("kind", SAMPLES)
def test_mse_is_as_good_as_brute_force(kind: str, limit: int) -> None:
    weights = SAMPLES[kind](12, 200)
    for per_row in (True, False):
        scale = scale_of(weights, limit, per_row=per_row)
        found = error(weights, scale, rounded(limit), per_row)
        assert (found <= 1.005 * brute_force(weights, rounded(limit), limit, per_row)).all()
        assert (found <= error(weights, scale_of(weights, limit, "minmax", per_row), rounded(limit), per_row)).all()


def test_the_best_scale_of_binary_codes_is_the_mean_size() -> None:
    weights = laplace(8, 300)
    scale = best_scale(weights, lambda w: torch.where(w < 0, -1.0, 1.0).to(w), 1, per_row=True)
    torch.testing.assert_close(scale, weights.abs().mean(1, keepdim=True), rtol=1e-12, atol=0)


@pytest.mark.parametrize("levels", [[-4, -2, -1, 0, 1, 2, 4], [-1.5, -0.5, 0.5, 1.5], [-2, 0, 1]])
def test_the_best_scale_of_any_levels(levels: list[float]) -> None:
    weights, quantize = laplace(6, 150), nearest(levels)
    found = error(weights, best_scale(weights, quantize, max(map(abs, levels)), per_row=True), quantize)
    assert (found <= 1.005 * brute_force(weights, quantize, max(map(abs, levels)), count=2000)).all()


def test_mse_gives_up_one_weight_far_out() -> None:
    weights = gaussian(1, 20_000)
    weights[0, 0] = 100
    scale = scale_of(weights, 1)
    assert 1 < float(scale) < 2
    near = torch.linspace(0.9, 2, 1101, dtype=torch.float64)
    assert error(weights, scale, rounded(1)) <= min(error(weights, s, rounded(1)) for s in near) * (1 + 1e-6)


def test_a_scale_stays_positive_where_a_negative_one_would_fit() -> None:
    scale = best_scale(torch.tensor([[-1.0, -2.0, -2.0]]), lambda w: w.round().clamp(1, 2), 2)
    assert 0 < float(scale) < 0.01  # both levels on the other side: the nearer to 0 the better


def test_a_best_scale_leaves_levels_at_their_least_squares() -> None:
    weights = gaussian(5, 100)
    scale = scale_of(weights, 3, per_row=True)
    codes = rounded(3)(weights / scale)
    torch.testing.assert_close(scale, (weights * codes).sum(1, True) / codes.square().sum(1, True), rtol=1e-12, atol=0)


# ---- ranges of least error


def on_grid(levels: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The nearest of `levels` evenly spaced values from lo to hi."""

    def quantize(values: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
        step = (hi - lo) / (levels - 1)
        return lo + step * round_half_up((values - lo) / step).clamp(0, levels - 1)

    return quantize


@pytest.mark.parametrize("levels", [4, 16])
def test_mse_range_is_near_the_best_of_all_pairs_of_ends(levels: int) -> None:
    values, quantize = laplace(3, 400).clamp(max=1.2), on_grid(levels)  # a membrane: a threshold above, none below

    def errors(lo: Tensor, hi: Tensor) -> Tensor:
        return (quantize(values, lo, hi) - values).square().sum(1, keepdim=True)

    lo, hi = min_max(values, per_row=True)
    found = errors(*mse_range(values, quantize, per_row=True))
    grid = torch.linspace(0.02, 1, 50, dtype=torch.float64)
    best = torch.stack([errors(lo * a, hi * b) for a in grid for b in grid]).amin(0)
    assert (found < errors(lo, hi)).all()
    assert (found <= 1.03 * best).all()


def test_mse_range_gives_up_one_end_alone() -> None:
    values = torch.linspace(0, 1, 2001, dtype=torch.float64)
    values[0] = -10
    lo, hi = map(float, mse_range(values, on_grid(4)))
    assert -0.5 < lo < 0
    assert 0.7 < hi <= 1.05


def test_mse_range_keeps_a_range_that_fits() -> None:
    assert [float(end) for end in mse_range(torch.tensor([0.0, 1.0, 2.0, 3.0]), on_grid(4))] == [0, 3]
    assert [float(end) for end in mse_range(torch.zeros(5), lambda v, lo, hi: v.clamp(lo, hi))] == [0, 0]

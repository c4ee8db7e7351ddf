"""Post-training quantization: ranges, scales, borders and codes from a sample of values, without a training step.

Pure functions of torch tensors, detached and of their argument's dtype and device; nothing here knows a layer. What is
found for a tensor has its ndim, with 1 where values were taken together: it broadcasts against the values. With
`per_row` that is one result for each index of the first dimension, (rows, 1, …), else a single one, (1, 1, …).
A row of zeros, which any scale fits, has the scale 1.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from quantal.qat.arithmetic.torch_ops import round_half_up

Range = tuple[Tensor, Tensor]
"""The least and the greatest value that a quantizer is to represent, in the values' unit."""

_EQUAL_MASS = {"gaussian": NormalDist().inv_cdf(2 / 3), "laplace": math.log(1.5) / math.sqrt(2)}
"""Δ/σ where |w| > Δ has the probability 2/3: 0.4307 and 0.2867, σ being the standard deviation in both cases."""


def _rows(values: Tensor, per_row: bool) -> Tensor:
    return values.flatten(1) if per_row else values.reshape(1, -1)


def _like(found: Tensor, values: Tensor) -> Tensor:
    """What was found for each row of _rows(values), in the shape that broadcasts against `values`."""
    return found.reshape(-1, *[1] * (values.ndim - 1))


def _cut(rows: Tensor, share: float) -> int:
    """How many values of a row are more than its share, rounded down."""
    if not 0 < share <= 1:
        raise ValueError(f"calibration: share: expected more than 0 and at most 1, got {share}")
    return rows.shape[1] - math.ceil(rows.shape[1] * share)


def _step(peak: Tensor, largest: float) -> Tensor:
    """The scale at which `peak` becomes the level `largest`, 1 where the peak is 0."""
    if not largest > 0:
        raise ValueError(f"calibration: largest level: expected more than 0, got {largest}")
    return torch.where(peak > 0, (peak / largest).clamp(min=torch.finfo(peak.dtype).tiny), 1)


def _squares(difference: Tensor) -> Tensor:
    """The sum of squares of each row, (rows, 1), in float64, which no float32 overflows: whatever the values' unit."""
    return difference.double().square().sum(1, keepdim=True)


# ---- ranges


@torch.no_grad()
def min_max(values: Tensor, per_row: bool = False) -> Range:
    """The least and the greatest of the values (White paper on quantization, arXiv 2106.08295, §3.1)."""
    lo, hi = _rows(values, per_row).aminmax(dim=1)
    return _like(lo, values), _like(hi, values)


@torch.no_grad()
def percentile(values: Tensor, share: float, per_row: bool = False) -> Range:
    """The range of the values without their (1 − share)/2 least and greatest: it holds `share` of them, or more.

    Both ends are values of the sample, not interpolated between two, so at few samples the range errs on the wide
    side and an integer stays an integer. Share 1 is min_max.
    """
    rows = _rows(values, per_row)
    cut = _cut(rows, share) // 2
    lo, hi = rows.kthvalue(1 + cut, dim=1).values, rows.kthvalue(rows.shape[1] - cut, dim=1).values
    return _like(lo, values), _like(hi, values)


@dataclass
class InHindsight:
    """A running range over batches: each is quantized with what the batches before it left (arXiv 2105.04246).

    q ← η·q + (1 − η)·minmax(batch). Only the first batch sees itself, for there is nothing before it. So a range is
    known before the values are, as on a device, where a second pass over them has no place.
    """

    eta: float = 0.9
    per_row: bool = False
    range: Range | None = None

    @torch.no_grad()
    def update(self, values: Tensor) -> Range:
        """The range to quantize these values with; `range` then counts them in."""
        seen = min_max(values, self.per_row)
        used = seen if self.range is None else self.range
        # lerp is exact where both are equal: a range that never changes must not drift.
        self.range = seen[0].lerp(used[0], self.eta), seen[1].lerp(used[1], self.eta)
        return used


# ---- scales


def _powers(steps: int, first: int, last: int) -> list[float]:
    """2^(first/steps) … 2^(last/steps)."""
    return [2.0 ** (k / steps) for k in range(first, last + 1)]


def _search(
    error: Callable[[Tensor], Tensor],
    start: Tensor,
    phases: Sequence[Sequence[tuple[float, ...]]],
    refine: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The best sizes (rows, d) found for each row, never worse than `start`; error(sizes), (rows, 1), is to be least.

    The error has many local minima, the more the finer the levels, so it is tried on grids: each phase multiplies the
    best sizes before it by its factors. Then `refine` improves them for as long as it helps a row.
    """
    best, least = start, error(start)

    def consider(sizes: Tensor) -> bool:
        nonlocal best, least
        found = error(sizes)
        better = (sizes > 0).all(1, keepdim=True) & (found < least)  # False also where one of them is no number
        best, least = torch.where(better, sizes, best), torch.where(better, found, least)
        return bool(better.any())

    for phase in phases:
        base = best
        for factors in phase:
            consider(base * base.new_tensor(factors))
    while refine is not None and consider(refine(best)):
        pass
    return best


@torch.no_grad()
def best_scale(weights: Tensor, quantize: Callable[[Tensor], Tensor], largest: float, per_row: bool = False) -> Tensor:
    """The scale s > 0 with the least squared error Σ(s·quantize(w/s) − w)², never worse than max|w|/largest.

    `quantize` maps values in units of the scale to levels, element by element: uniform, ternary, binary or any others;
    weights or states. `largest` is its greatest |level|. The search (arXiv 2106.08295, §3.1) ends in Lloyd's
    alternation: for fixed levels q the best scale is Σwq/Σq², and for a fixed scale `quantize` gives the levels.
    """
    w = _rows(weights, per_row)

    def least_squares(scale: Tensor) -> Tensor:
        q = quantize(w / scale)
        return (w * q).sum(1, keepdim=True) / q.square().sum(1, keepdim=True)

    start = _step(w.abs().amax(1, keepdim=True), largest)
    # Down to 1/256 of the peak, and closely around the best: at 8 bits 0.2 % are half a level at the end.
    phases = [[(factor,) for factor in _powers(*grid)] for grid in ((32, -256, 0), (512, -64, 64))]
    found = _search(lambda scale: _squares(scale * quantize(w / scale) - w), start, phases, least_squares)
    return _like(found, weights)


@torch.no_grad()
def scale_of(weights: Tensor, limit: int, method: str = "mse", per_row: bool = False, share: float = 0.999) -> Tensor:
    """The scale s of integer codes clip(round(w/s), −limit, limit), limit 1 being ternary (arXiv 2106.08295, §3.1).

    "minmax": the greatest |w| becomes the limit. "percentile": the |w| that `share` of them do not exceed does, and
    the rest are clipped; where that is 0, as in a pruned row, the greatest. "mse": best_scale. A row that is shorter
    than 1/(1 − share) has no weight to spare: there "percentile" is "minmax".
    """
    if method == "mse":
        return best_scale(weights, lambda w: round_half_up(w.clamp(-limit, limit)), limit, per_row)
    if method not in ("minmax", "percentile"):
        raise ValueError(f"calibration: method: expected minmax, percentile or mse, got {method!r}")
    sizes = _rows(weights, per_row).abs()
    peak = sizes.amax(1)
    if method == "percentile":
        inner = sizes.kthvalue(sizes.shape[1] - _cut(sizes, share), dim=1).values
        peak = torch.where(inner > 0, inner, peak)
    return _like(_step(peak, limit), weights)


@torch.no_grad()
def mse_range(values: Tensor, quantize: Callable[[Tensor, Tensor, Tensor], Tensor], per_row: bool = False) -> Range:
    """The range with the least squared error of quantize(values, lo, hi), never worse than min_max's.

    `quantize` gives the nearest representable values, element by element; its range is (rows, 1) against values
    (rows, n). Both ends are searched (arXiv 2106.08295, §3.1), for a membrane's may lie far apart: inhibition knows no
    threshold. An end at 0 stays there.
    """
    rows = _rows(values, per_row)
    ends = torch.cat(min_max(rows, per_row=True), 1)

    def error(factors: Tensor) -> Tensor:
        lo, hi = (ends * factors)[..., None].unbind(1)
        return _squares(quantize(rows, lo, hi) - rows)

    coarse, near = _powers(2, -16, 0), _powers(32, -16, 16)
    along = [[(f, 1.0) for f in near], [(1.0, f) for f in near], [(f, f) for f in near]]
    phases = [[(a, b) for a in coarse for b in coarse], *along, *along]
    lo, hi = (ends * _search(error, torch.ones_like(ends), phases)).unbind(1)
    return _like(lo, values), _like(hi, values)


# ---- codes


@torch.no_grad()
def gpfq(weights: Tensor, analog: Tensor, quantized: Tensor, quantize: Callable[[Tensor], Tensor]) -> Tensor:
    """Greedy path following quantization (GPFQ, arXiv 2201.11113): the weights (rows, fan_in), each representable.

    `analog` and `quantized`, X and X̃ (samples, fan_in), are what enters the layer in full precision and after the
    layers before it are quantized; `quantize` maps (rows,) real weights to the nearest representable ones. Column by
    column, the next weight makes up for the error of the output so far, U (rows, samples), as well as it can:

        U += w_t X_tᵀ;  q_t = quantize(U X̃_t / ‖X̃_t‖²);  U −= q_t X̃_tᵀ

    Written out, U X̃_t = Σ_{j≤t} w_j ⟨X_j, X̃_t⟩ − Σ_{j<t} q_j ⟨X̃_j, X̃_t⟩: two Gram matrices, and U is never stored. A
    column whose X̃_t is 0 changes no output of the sample, so any code would do: it keeps the nearest, not the 0 of
    the paper's code, for an input that is silent here may speak in use.

    A recurrent layer is one matrix of columns [s_in, s_rec(t−1)] and rows [W_in, W_rec]: samples are batch × time.
    """
    x, x_quantized = analog.to(weights.dtype), quantized.to(weights.dtype)
    wanted = weights @ (x.t() @ x_quantized).triu_()
    gram = x_quantized.t() @ x_quantized
    result = torch.zeros_like(weights)
    for t, norm in enumerate(gram.diagonal().tolist()):
        target = weights[:, t] if norm == 0 else (wanted[:, t] - result[:, :t] @ gram[:t, t]) / norm
        result[:, t] = quantize(target)
    return result


@torch.no_grad()
def kmeans_borders(values: Tensor, count: int) -> Tensor:
    """The count − 1 ascending borders, (count − 1,), halfway between the `count` centres of a 1-D K-means clustering.

    The b_i of differentiable quantization (Quantization Networks, arXiv 1911.09464), in the unit of the values: βW.
    Deterministic. ValueError where there are fewer distinct values than centres, for two borders would be one.
    """
    from sklearn.cluster import KMeans  # a second to import, for one of many ways to choose borders

    distinct, counts = torch.unique(values.double().cpu(), return_counts=True)
    if len(distinct) < count:
        raise ValueError(f"calibration: values: expected at least {count} distinct ones, got {len(distinct)}")
    clusters = KMeans(count, n_init=4, tol=0, random_state=0)
    clusters.fit(distinct[:, None].numpy(), sample_weight=counts.numpy())
    centres = torch.from_numpy(clusters.cluster_centers_).flatten().sort().values
    return ((centres[1:] + centres[:-1]) / 2).to(values)


# ---- ternary thresholds


def _above(weights: Tensor, delta: Tensor, per_row: bool) -> tuple[Tensor, Tensor]:
    """Δ and the mean of |w| above it, which is the best scale of the codes sign(w)·[|w| > Δ] (arXiv 1605.04711)."""
    sizes = _rows(weights, per_row).abs()
    above = sizes > delta
    mean = (sizes * above).sum(1, keepdim=True) / above.sum(1, keepdim=True)  # of none it is no number: the scale is 1
    return _like(delta, weights), _like(_step(mean, 1), weights)


@torch.no_grad()
def tquant(weights: Tensor, per_row: bool = False) -> tuple[Tensor, Tensor]:
    """(Δ, scale) of the ternary codes sign(w)·[|w| > Δ] with Δ = max|w|/3 (TQuant, arXiv 2306.17442).

    Three intervals of one width: against the largest error. But for ties, rounding at the scale 2Δ has these codes.
    """
    return _above(weights, _rows(weights, per_row).abs().amax(1, keepdim=True) / 3, per_row)


@torch.no_grad()
def mquant(weights: Tensor, shape: str = "gaussian", per_row: bool = False) -> tuple[Tensor, Tensor]:
    """(Δ, scale) of the ternary codes sign(w)·[|w| > Δ], a third of the weights each (MQuant, arXiv 2306.17442).

    That is so where the weights are spread about 0 as `shape`, "gaussian" or "laplace", says: Δ = 0.4307σ or 0.2867σ.
    σ is the standard deviation about 0, √mean(w²), in both cases, for the intervals lie about 0 wherever the mean is.
    """
    if shape not in _EQUAL_MASS:
        raise ValueError(f"calibration: shape: expected {' or '.join(_EQUAL_MASS)}, got {shape!r}")
    rows = _rows(weights, per_row)
    deviation = (_squares(rows) / rows.shape[1]).sqrt().to(weights.dtype)
    return _above(weights, _EQUAL_MASS[shape] * deviation, per_row)

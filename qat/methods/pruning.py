"""Spectral pruning: layers with fewer neurons, whose spikes also stand for those that are gone (arXiv 2105.10832).

Σ is the second moment of a layer's spikes φ over samples and steps, not centred. The spikes of the neurons J that are
kept give those of all by least squares: φ ≈ A_J φ_J, A_J = Σ_{:,J}(Σ_JJ + τ)⁻¹. What that leaves of Σ is
R_J = Σ − Σ_{:,J}(Σ_JJ + τ)⁻¹Σ_{J,:}. With W_o the weights of the layer that is fed and W_h the recurrent ones, J is
chosen greedily for a small Tr R_J + Tr(W_o R_J W_oᵀ) + Tr(W_h R_J W_hᵀ) = Tr(M R_J), M = I + W_oᵀW_o + W_hᵀW_h. Then
W_h ← W_h[J,:]A_J, W_o ← W_o A_J, and of all else that each neuron has J's is taken (see axes.py). Of a layer whose
spikes a psp norm scales, W_o is what the norm makes of its weights. What is left is dense.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import Progress
from torch import Tensor

from quantal.export.base.errors import BadInput
from quantal.qat.config.parts.fields import replace
from quantal.qat.config.parts.layers import Pool
from quantal.qat.config.parts.network import Config
from quantal.qat.config.parts.weights import Maqd
from quantal.qat.config.rules import CHAINED, misfit
from quantal.qat.data.registry import Dataset
from quantal.qat.network.axes import OWN, SEEN, taken
from quantal.qat.network.layer import SpikingLayer
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.training.batches import EVALUATION_BATCH, batches_of
from quantal.qat.training.run import Run

RIDGE = 1e-6
"""τ, of the mean of Σ's diagonal: a neuron's mean squared spikes a step."""


def _identity(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)


def choose(sigma: Tensor, metric: Tensor, count: int, tau: float) -> tuple[Tensor, Tensor]:
    """J (count,), ascending, and R_J (n, n): the neurons to keep for a small Tr(M R_J); sigma Σ and metric M (n, n).

    Each next one, j, makes it least: it takes (RMR)_jj / (R_jj + τ) from it, and r_j r_jᵀ / (R_jj + τ) from R.
    """
    residual, weighted = sigma.clone(), metric @ sigma  # R, M R
    left = torch.ones(len(sigma), dtype=torch.bool, device=sigma.device)
    for _ in range(count):
        gain = (residual * weighted).sum(dim=0) / (residual.diagonal() + tau)
        j = int(gain.where(left, -torch.inf).argmax())
        left[j] = False
        row = residual[j] / (residual[j, j] + tau)
        residual, weighted = residual - residual[:, j, None] * row, weighted - weighted[:, j, None] * row
    return (~left).nonzero().squeeze(1), residual


def reconstruction(sigma: Tensor, kept: Tensor, tau: float) -> Tensor:
    """A_J (n, count): what of each kept neuron's spikes makes up each neuron's. A kept one is itself, as for τ → 0."""
    ridge = tau * _identity(len(kept), sigma)
    found: Tensor = torch.linalg.solve(sigma[kept][:, kept] + ridge, sigma[kept]).t()
    found[kept] = _identity(len(kept), sigma)
    return found


@dataclass(frozen=True)
class Cut:
    """A pruned layer: J (count,), A_J (n, count), and the share of Tr Σ, of the spikes, that R_J does not have."""

    kept: Tensor
    mix: Tensor
    share: float


def cut(layer: SpikingLayer, after: SpikingLayer, sigma: Tensor, count: int) -> Cut:
    """Which `count` neurons of `layer` are kept, and how they stand for all; `after` is the layer that it feeds."""
    metric = _identity(len(sigma), sigma)
    for weights in (after.weights()[0], layer.recurrent):
        if weights is not None:
            real = weights.detach().to(sigma)
            metric += real.t() @ real
    power = float(sigma.trace()) or 1.0  # a layer that is silent has nothing to lose
    tau = RIDGE * power / len(sigma)
    kept, residual = choose(sigma, metric, count, tau)
    return Cut(kept, reconstruction(sigma, kept, tau), 1 - float(residual.trace()) / power)


def cut_all(network: SpikingNetwork, moments: Mapping[str, Tensor], kept: Mapping[str, int]) -> dict[str, Cut]:
    """The cuts that leave so many neurons of the layers named in `kept`; moments: their Σ."""
    return {
        layer.config.name: cut(layer, after, moments[layer.config.name], kept[layer.config.name])
        for layer, after in zip(network.stack, network.stack[1:], strict=False)
        if layer.config.name in kept
    }


@torch.no_grad()
def second_moments(network: SpikingNetwork, parts: Iterable[Tensor]) -> dict[str, Tensor]:
    """Σ (size, size) of the spikes of each layer but the readout, over inputs (samples, steps, inputs), by its name."""
    layers = [layer.config for layer in network.stack[:-1]]
    sums = {layer.name: torch.zeros(layer.size, layer.size, dtype=torch.float64, device="cpu") for layer in layers}
    rows = 0
    for x in parts:
        rows += x.shape[0] * x.shape[1]
        sent: list[Tensor] = []
        network(x, sent=sent)
        for layer, spikes in zip(layers, sent, strict=True):
            phi = spikes.flatten(0, 1).double()
            sums[layer.name] += phi.t() @ phi
    return {name: total / rows for name, total in sums.items()}


def rewrite(network: SpikingNetwork, cuts: Mapping[str, Cut], pruned: SpikingNetwork) -> None:
    """Gives `pruned`, which is `network` but for the sizes of the layers that are cut, its parameters."""
    before = None
    for layer, smaller in zip(network.stack, pruned.stack, strict=True):
        own, tensors = cuts.get(layer.config.name), layer.state_dict()
        if before is not None:
            tensors |= _fed_by(layer, before)
        if own is not None and layer.recurrent is not None:
            tensors["recurrent"] = (layer.recurrent.double() @ own.mix).to(layer.recurrent)
        rows = {} if own is None else {OWN: own.kept}
        entries = rows if before is None else rows | {SEEN: before.kept}
        smaller.load_state_dict(
            {name: taken(name, tensor, rows if name == "weight" else entries) for name, tensor in tensors.items()}
        )
        before = own


def _fed_by(layer: SpikingLayer, before: Cut) -> dict[str, Tensor]:
    """Its weights on the neurons that are kept of the layer before, and the gains of its psp norm, of all of them.

    The kept ones stand for the others in what a norm makes of the weights; what it makes of theirs is taken out again.
    A gain of 0, which lets nothing through and cannot be taken out, becomes 1.
    """
    if layer.psp is None:
        return {"weight": (layer.weight.double() @ before.mix).to(layer.weight)}
    root, gain = layer.psp.root(layer.psp.moment).double(), layer.psp.gain
    passing = gain.where(gain != 0, 1.0)
    mixed = (layer.weight * (gain / root)) @ before.mix * (root / passing)[before.kept]
    return {"weight": mixed.to(layer.weight), "psp.gain": passing}


def sizes(config: Config, keep: int | float, names: tuple[str, ...]) -> dict[str, int]:
    """How many neurons the named layers keep, of none named all but the readout: so many, or that share of their own.

    Raises BadInput where there is no such layer, where it is the readout, where it has fewer neurons, and where rows
    are standardized, which are no longer what they were once they are rewritten.
    """
    *hidden, readout = config.layers
    own, kept = {layer.name: layer.size for layer in hidden}, {}
    for name in names or tuple(own) or (readout.name,):
        if name == readout.name:
            raise BadInput(f"--layer: {name}: the readout has a neuron for each class, and keeps them")
        if name not in own:
            raise BadInput(f"--layer: {name}: not a layer of the run, expected one of {', '.join(own)}")
        kept[name] = keep if isinstance(keep, int) else max(1, round(keep * own[name]))
        if kept[name] > own[name]:
            raise BadInput(f"--keep: layer {name} has {own[name]} neurons, not {kept[name]}")
    for layer in config.layers:
        if (found := misfit(layer, CHAINED))[0]:
            raise BadInput(f"layer {layer.name}: {found[0]}: only chains of dense layers are pruned: {found[1]}")
        assert not isinstance(layer, Pool)
        if isinstance(layer.weights, Maqd):
            raise BadInput(f"layer {layer.name}: weights: maqd's rows are standardized: prune full precision")
        if layer.weights.standardize:
            raise BadInput(f"layer {layer.name}: standardize: the rows that pruning writes would be standardized again")
    return kept


def prune(
    source: Run, data: Dataset, kept: Mapping[str, int], path: Path, progress: Progress
) -> tuple[Run, dict[str, Cut]]:
    """A new run in the folder `path` with so many neurons of the named layers of `source`, and no epochs done.

    Σ is taken over all training samples, of the hard form of the network.
    """
    source.check(data)
    dtype, parts = source.exact_dtype(), list(batches_of(data.train, EVALUATION_BATCH))
    inputs = (source.tensors(part, dtype)[0] for part in progress.track(parts, description="pruning"))
    cuts = cut_all(source.network, second_moments(source.network, inputs), kept)
    layers = tuple(replace(layer, size=kept.get(layer.name, layer.size)) for layer in source.config.layers)
    run = Run(path, replace(source.config, layers=layers), source.network.channels, source.network.maximum)
    run.teacher = source.teacher
    rewrite(source.network, cuts, run.network)
    run.write_new(data)
    return run, cuts

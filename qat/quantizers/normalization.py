"""Normalizations: trained with a batch's moments, deployed with kept ones, folded into thresholds or into weights.

The moments are those of all samples and steps of a batch. Training keeps a running average of them; a network begins
with those of its first samples, see SpikingNetwork.begin_norms.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from quantal.qat.arithmetic.exact import FLOAT32

MOMENTUM, EPSILON, LEAST = 0.1, 1e-5, 1 / 64
LAMBDA = 1e-2  # an input that is almost silent is multiplied by 10, not by more: the weights of a row share one scale
CURRENT_NORMS = ("batch", "layer-batch")
NORMS = ("none", *CURRENT_NORMS, "psp")


class _Norm(nn.Module):
    """What keeps moments, in buffers of their names."""

    @torch.no_grad()
    def keep(self, moments: Mapping[str, Tensor], share: float = MOMENTUM) -> None:
        """Moves the kept moments by that share towards those of a batch."""
        for name, found in moments.items():
            kept = self.get_buffer(name)
            kept.lerp_(found.to(kept), share)


class CurrentNorm(_Norm):
    """y = γ (z − μ) / √(σ² + ε) of the products z of a layer's weights with its input, with one γ a neuron.

    "batch": one μ and σ² a neuron (arXiv 1502.03167). "layer-batch": one for the whole layer, MaQD's (arXiv
    2403.14999), which does not depend on the size of a mini-batch; axes, momentum and ε are a reconstruction. The β of
    both is the layer's own bias. What comes back through recurrent weights is scaled by |γ|/√(σ² + ε) too, as a row has
    one scale, and is not centred.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, size: int, kind: str):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(size, **FLOAT32))
        self.axes = 0 if kind == "batch" else None
        moments = () if self.axes is None else (size,)
        self.register_buffer("mean", torch.zeros(moments, **FLOAT32))
        self.register_buffer("variance", torch.ones(moments, **FLOAT32))

    @property
    def growth(self) -> float:
        """What a current is multiplied by where γ is 1: over all neurons, by the kept moments."""
        return float((self.variance.mean() + EPSILON).rsqrt())

    def moments(self, products: Tensor) -> dict[str, Tensor]:
        """Those of z (..., size), by name."""
        variance, mean = torch.var_mean(products.flatten(0, -2), dim=self.axes, correction=0)
        return {"mean": mean, "variance": variance}

    def affine(self, moments: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(sign, a, b), each (size,): y = sign a z + b, a > 0, by these moments, or by the kept ones.

        A γ that is nearer to 0 than LEAST has its size, so that it may cross 0.
        """
        mean, variance = (self.mean, self.variance) if moments is None else (moments["mean"], moments["variance"])
        sign, size = self.gain.detach().sign(), self.gain.abs()
        size = size + (size.clamp(min=LEAST) - size).detach()
        factor = size / torch.sqrt(variance + EPSILON)
        return sign, factor, -sign * factor * mean


class PspNorm(_Norm):
    """â_j = γ_j s_j / √(m₂,j + λ) of a layer's input s, m₂,j = E[s_j²]: of spikes, how often there is one.

    λ is LAMBDA for spikes, and for a network's own input as much of the square of its maximum.

    PSP normalization (arXiv 2203.01544), where a spike is its own postsynaptic potential. No mean is subtracted, so it
    is a factor for each column of the weights, and goes into them before they are quantized. γ, and where λ stands, are
    a reconstruction. Recurrent spikes are not normalized: how many there are is known after the layer has run.
    """

    moment: Tensor

    def __init__(self, inputs: int, maximum: float | Tensor):
        super().__init__()
        self.least = LAMBDA * maximum**2
        self.gain = nn.Parameter(torch.ones(inputs, **FLOAT32))
        self.register_buffer("moment", torch.ones(inputs, **FLOAT32))

    def moments(self, x: Tensor) -> dict[str, Tensor]:
        """Those of s (..., inputs), by name."""
        return {"moment": x.square().flatten(0, -2).mean(dim=0)}

    def columns(self, moments: Mapping[str, Tensor] | None = None) -> Tensor:
        """The factor of each input, (inputs,), by these moments, or by the kept ones."""
        return self.gain / self.root(self.moment if moments is None else moments["moment"])

    def root(self, moment: Tensor) -> Tensor:
        """√(m₂ + λ) of each input, (inputs,)."""
        return torch.sqrt(moment + self.least)

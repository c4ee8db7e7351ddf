"""Layer-batch normalization: trained with a batch's moments, deployed with kept ones, folded into the thresholds."""

import torch
from torch import Tensor, nn

MOMENTUM, EPSILON, LEAST = 0.1, 1e-5, 1 / 64


class LayerBatchNorm(nn.Module):
    """y = γ (z − μ) / √(σ² + ε), with one γ a neuron and one μ and σ² for the whole layer and batch.

    MaQD (arXiv 2403.14999): it does not depend on the size of a mini-batch. Axes, momentum and ε are a reconstruction.
    The β of the paper is the layer's own bias. What comes back through recurrent weights is scaled by |γ|/√(σ² + ε)
    too, for a row has one scale, and is not centred.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, size: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(size))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("variance", torch.ones(()))

    def affine(self, products: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(sign, a, b), each (size,): y = sign a z + b, a > 0.

        With `products` z (..., size) by their moments, which it keeps, else by those that it has kept. A γ that is
        nearer to 0 than LEAST has its size, so that it may cross 0.
        """
        mean, variance = self.mean, self.variance
        if products is not None:
            variance, mean = torch.var_mean(products, correction=0)
            with torch.no_grad():
                self.mean.lerp_(mean.to(self.mean), MOMENTUM)
                self.variance.lerp_(variance.to(self.variance), MOMENTUM)
        sign, size = self.gain.detach().sign(), self.gain.abs()
        size = size + (size.clamp(min=LEAST) - size).detach()
        factor = size / torch.sqrt(variance + EPSILON)
        return sign, factor, -sign * factor * mean

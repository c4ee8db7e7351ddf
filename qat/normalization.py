"""Layer-batch normalization: trained with a batch's moments, deployed with kept ones, folded into the thresholds."""

import torch
from torch import Tensor, nn

MOMENTUM, EPSILON = 0.1, 1e-5


class LayerBatchNorm(nn.Module):
    """y = γ (z − μ) / √(σ² + ε), with one γ a neuron and one μ and σ² for the whole layer and batch.

    MaQD (arXiv 2403.14999): it does not depend on the size of a mini-batch. Axes, momentum and ε are a reconstruction.
    The β of the paper is the layer's own bias.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, size: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(size))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("variance", torch.ones(()))

    def affine(self, products: Tensor | None) -> tuple[Tensor, Tensor]:
        """(a, b), each (size,): y = a z + b. With `products` z (..., size) by their moments, which it then keeps."""
        mean, variance = self.mean, self.variance
        if products is not None:
            variance, mean = torch.var_mean(products, correction=0)
            with torch.no_grad():
                self.mean.lerp_(mean.to(self.mean), MOMENTUM)
                self.variance.lerp_(variance.to(self.variance), MOMENTUM)
        factor = self.gain / torch.sqrt(variance + EPSILON)
        return factor, -factor * mean

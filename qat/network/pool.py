"""Sums over windows: a layer without weights or neurons."""

from torch import Tensor, nn

from quantal.export.base.errors import BadInput
from quantal.qat.arithmetic import planes
from quantal.qat.arithmetic.exact import exact_products
from quantal.qat.config.parts import layers


class Pool(nn.Module):
    """The sums over the windows of one layer's outputs: (steps, batch, inputs) → (steps, batch, config.size)."""

    def __init__(self, config: layers.Pool, inputs: int):
        super().__init__()
        self.config, self.window = config, config.window
        if self.window.size != inputs:
            raise BadInput(f"{config.name}: shape: {list(config.shape)} are not the {inputs} values that it sees")

    def forward(self, x: Tensor, record: dict[str, Tensor] | None = None) -> Tensor:
        """See the class; with `record`, also there."""
        with exact_products(x.device):
            sums = planes.pooled(x, self.window)
        if record is not None:
            record[f"{self.config.name}.sum"] = sums
        return sums

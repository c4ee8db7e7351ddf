"""The golden vectors: what torch's hard forward does, as integers."""

import numpy as np
import torch
from torch import Tensor

from quantal.export.base.errors import BadInput
from quantal.qat.arithmetic.exact import check_rounding
from quantal.qat.network.network import SpikingNetwork


def hard_trace(network: SpikingNetwork, x: np.ndarray, dtype: torch.dtype) -> dict[str, np.ndarray]:
    """The hard forward on x (samples, steps, inputs): every record and "output", each (samples, steps, neurons).

    These are the golden vectors. `dtype` must be exact for the network (see lower.exact_dtype).
    """
    check_rounding()
    record: dict[str, Tensor] = {}
    device = next(network.parameters()).device
    with torch.no_grad():
        record["output"] = network(torch.from_numpy(np.ascontiguousarray(x)).to(device, dtype), record)
    order = [name for name in record if name != "output"] + ["output"]
    return {name: _integers(record[name], name) for name in order}


def _integers(values: Tensor, name: str) -> np.ndarray:
    whole = values.cpu().numpy().astype(np.int64)
    if not bool((values.cpu() == torch.from_numpy(whole)).all()):
        raise BadInput(f"{name}: the forward is not an integer one: full precision cannot be exported")
    return whole

"""A readout by ridge regression: the weights with which a leaky integrator's last membrane is next to the class.

But for its rounding, a membrane is linear in what came in: U_T = Σ_t κ_{T−t} (W x_t + b), where κ is its answer to a
single 1. So W is found by a regression on the features Σ_t κ_{T−t} x_t, traces of the spikes; without a leak κ is 1,
and they are how often each neuron has fired. Then the weights are quantized one by one, each to make up for the errors
of those before it (GPFQ, see calibration.py), and the bias makes up for all.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from scipy.linalg import toeplitz
from torch import Tensor
from torch.nn.functional import one_hot

from quantal.export.base.errors import BadInput
from quantal.qat.arithmetic.exact import FLOAT64
from quantal.qat.network.layer import SpikingLayer
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.quantizers.weights import Lsq
from quantal.qat.training.warm_start import fit_codes, weight_scale

PENALTIES = 10.0 ** np.arange(-3, 9)
"""Among which one is chosen."""

HEADROOM = 1.5
"""How much further the states reach than the membrane goes on the training samples."""

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""The training samples, from the first on: inputs (batch, steps, inputs) in a float that is exact, labels (batch,)."""


def answer(readout: SpikingLayer, steps: int) -> Tensor:
    """What a membrane is after each step (rows) from a current of 1 in each (columns), (steps, steps), float64."""
    p = readout.integers().params
    decay, synapse = (
        unless if table is None else float(table[0]) / 2**p.decay_bits
        for table, unless in ((p.decay, 1.0), (p.synapse_decay, 0.0))
    )
    current, level, levels = 1.0, 0.0, []
    for _ in range(steps):
        level = decay * level + current
        current *= synapse
        levels.append(level)
    return torch.from_numpy(toeplitz(levels, np.zeros(steps)))


@torch.no_grad()
def fit(network: SpikingNetwork, batches: Batches, penalty: float) -> float:
    """Gives the readout the weights of the ridge regression on the classes: 1 for the right one, 0 for the others.

    penalty: of the squares of W; 0 for the one of PENALTIES with the least squared error on training samples that are
    left out one at a time. Returns it. What is fitted is scaled so that the membrane keeps within its states' range.
    Raises BadInput where there is one class.
    """
    from sklearn.linear_model import Ridge, RidgeCV  # takes a second to import, and only this needs it

    readout, steps = network.stack[-1], network.config.encoder.steps
    if readout.config.size < 2:
        raise BadInput(f"layer {readout.config.name}: size: ridge tells classes apart, and the data have one")
    kappa, biased = answer(readout, steps), readout.bias is not None

    def spikes(x: Tensor) -> Tensor:
        value = network.entering(x)
        for layer in network.stack[:-1]:
            value = layer(value, network.ops)
        return value.double()

    features = torch.cat([torch.einsum("t,tbn->bn", kappa[-1], spikes(x)) for x, _ in batches()])
    wanted = one_hot(torch.cat([y for _, y in batches()]), readout.config.size).double()
    model = Ridge(penalty, fit_intercept=biased) if penalty else RidgeCV(PENALTIES, fit_intercept=biased)
    model.fit(features.numpy(), wanted.numpy())
    weight = torch.from_numpy(model.coef_)
    bias = torch.as_tensor(model.intercept_, **FLOAT64) / kappa[-1].sum()  # which is added at every step

    def peak(x: Tensor) -> float:
        return float(torch.einsum("ts,sbc->tbc", kappa, spikes(x) @ weight.t() + bias).abs().max())

    highest = max(peak(x) for x, _ in batches())
    factor = readout.config.neuron.threshold * readout.config.states.range / (HEADROOM * max(highest, 1e-9))
    centre = features.mean(0) * biased
    kept = _quantize(readout, factor * weight, features - centre)
    if readout.bias is not None:
        readout.bias.copy_((factor * wanted.mean(0) - kept @ centre) / kappa[-1].sum())
    return penalty or float(model.alpha_)


def _quantize(readout: SpikingLayer, weight: Tensor, features: Tensor) -> Tensor:
    """Gives the readout the weights (classes, features); returns what is kept of them."""
    readout.weight.copy_(weight)
    readout.quantizer.begin(readout.weights()[0], readout.scale_per_row)
    scale = weight_scale(readout, readout.weights()[0], "mse")
    readout.choose_units(scale, float(scale.mean()))
    if type(readout.quantizer) is Lsq:
        fit_codes(readout, features[None], features[None], None)
    return (scale * readout.quantizer.codes(readout.weights()[0], scale, 0)).double()

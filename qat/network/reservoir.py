"""A reservoir: a recurrent layer that is drawn, not trained, for a readout that is. Together: a liquid state machine.

Maass, Natschläger, Markram, Real-time computing without stable states, Neural Computation 14, 2002. Each neuron excites
or inhibits all that it reaches (Dale's law). It has to be kept from saturation: where every neuron fires at every step,
all inputs look alike. So its rate is set before anything is learned from it, by one factor of all its weights.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from quantal.export.base.errors import BadInput
from quantal.qat.arithmetic.exact import FLOAT32, INT64
from quantal.qat.arithmetic.torch_ops import TorchOps
from quantal.qat.config.parts.layers import Reservoir
from quantal.qat.network.layer import SpikingLayer
from quantal.qat.quantizers.weights import Lsq

TOLERANCE = 0.1
"""How far off its rate a reservoir may be, of the rate asked for; nearer than a hundredth is not looked for."""

_CLOSE, _DOUBLINGS, _HALVINGS = 0.01, 8, 12


@torch.no_grad()
def draw(layer: SpikingLayer, input_scale: float, generator: torch.Generator) -> None:
    """Gives the layer its weights, and fixes all its parameters.

    Every neuron has an input weight of either sign for each input, of 1 / (√inputs · input_scale) at most, and
    recurrent weights from as many neurons as `density` says, itself perhaps, of gain / their number at most: these have
    mostly one sign and add up. The two bounds are a power of two apart, and weights are drawn among the codes that are
    not 0: so density and signs are those of the integers too.
    """
    config, (size, inputs) = layer.config, layer.weight.shape
    assert layer.recurrent is not None
    assert isinstance(config, Reservoir)
    limit = layer.quantizer.limit if isinstance(layer.quantizer, Lsq) else None

    def sizes(columns: int) -> Tensor:
        drawn = 1 - torch.rand(size, columns, generator=generator, **FLOAT32)
        return drawn if limit is None else (drawn * limit).ceil() / limit

    def first(columns: int, count: int) -> Tensor:
        return torch.arange(columns, **INT64).expand(size, -1) < count

    senders = max(1, round(config.density * size))
    chosen = torch.rand(size, size, generator=generator, **FLOAT32).argsort(dim=1) < senders
    signs = _signs(first(size, size - round(config.inhibitory * size)))
    either = _signs(torch.rand(size, inputs, generator=generator, **FLOAT32) < 0.5)
    bound = 1 / (math.sqrt(inputs) * input_scale)
    back = bound * 2.0 ** round(math.log2(config.weights.gain / senders / bound))
    layer.weight.copy_(bound * either * sizes(inputs))
    layer.recurrent.copy_(back * signs * chosen * sizes(size))
    levels = limit or 2**16
    layer.choose_units(layer.of_rows(torch.full((size, 1), bound / levels, **FLOAT32)), back / levels)
    layer.requires_grad_(False)


def _signs(positive: Tensor) -> Tensor:
    """1 where that is so, else -1."""
    return positive.float() * 2 - 1


@torch.no_grad()
def control_rates(reservoirs: Sequence[SpikingLayer], x: Tensor, ops: TorchOps) -> None:
    """Gives each the rate that its configuration asks for, on x (samples, steps, inputs) that enter the first.

    One factor scales all weights of a reservoir. Their codes stay as they are: in the integers it is the threshold that
    changes. Raises BadInput where no factor comes near: with much recurrent excitation the rate leaps from low to high.
    """
    value = x.transpose(0, 1)
    for layer in reservoirs:
        _control_rate(layer, value, ops)
        value = layer(value, ops)


def _control_rate(layer: SpikingLayer, x: Tensor, ops: TorchOps) -> None:
    assert isinstance(layer.config, Reservoir)
    first, wanted = [matrix.clone() for matrix in layer.matrices], layer.config.rate
    fan_in, recurrent = (layer.unit * 2.0**shift for shift in layer.shifts.tolist()[:2])

    tried: list[tuple[float, float, float]] = []

    def rate_at(doublings: float) -> float:
        factor = 2.0**doublings
        for matrix, start in zip(layer.matrices, first, strict=True):
            matrix.copy_(start * factor)
        layer.choose_units(fan_in * factor, float(recurrent.mean()) * factor)
        rate = float(layer(x, ops, {}).mean())  # recorded: the fused engine is compiled anew for other shifts
        tried.append((abs(rate - wanted), doublings, rate))
        return rate

    # The least weights that will do: further up, states saturate, and the rate may fall again.
    high = next((float(up) for up in range(-_DOUBLINGS, _DOUBLINGS) if rate_at(up) >= wanted), float(_DOUBLINGS))
    low = high - 1
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if rate_at(middle) < wanted else (low, middle)
        if tried[-1][0] <= _CLOSE * wanted:
            return
    distance, nearest, rate = min(tried)
    rate_at(nearest)
    if distance > TOLERANCE * wanted:
        name = layer.config.name
        raise BadInput(f"layer {name}: rate: {wanted:g} is not within reach, {rate:.3g} is; try another gain")

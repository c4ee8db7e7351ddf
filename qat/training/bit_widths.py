"""Which layer is worth how many bits: widths under a budget of bytes, from what training knows of each weight.

Quantizing a weight to w + e costs the loss about ½ F e², F being the mean square of its gradient, the diagonal of the
Fisher information (as in HAWQ, arXiv 1905.03696, and its successors); Adam keeps an average of just that.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from quantal.export.base.errors import BadInput
from quantal.export.emit.c.packing import Packing, packing, table_bytes, table_size
from quantal.qat.network.layer import SpikingLayer
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.quantizers.weights import Learned

_LEVELS = -128, 127  # within which all quantizers' levels lie


def weight_bytes(network: SpikingNetwork) -> int:
    """What the network's weights take in the header at most, whatever their codes are."""
    return sum(_bytes(network, layer, layer.weight_bits) for layer in network.stack)


def _bytes(network: SpikingNetwork, layer: SpikingLayer, bits: int) -> int:
    """What the weights of the layer take at most with codes of `bits` bits, and the levels that these stand for."""
    rows, inputs = layer.weight.shape
    fan_in = packing(rows, inputs, bits, layer.config.groups if layer.window is not None else 0)
    total = fan_in.bytes + len(network.connections(layer.config)) * _level_bytes(layer, fan_in)
    if layer.recurrent is not None and layer.config.recurrent == "diagonal":  # constants of its neurons, no codes
        total += table_bytes(layer.rows, *_LEVELS)
    elif layer.recurrent is not None:
        recurrent = packing(rows, rows, bits)
        total += recurrent.bytes + _level_bytes(layer, recurrent)
    return total


def _level_bytes(layer: SpikingLayer, packed: Packing) -> int:
    """What the levels take at most that codes packed so stand for; 0 where codes are the weights."""
    levels = len(layer.quantizer.table)
    return table_bytes(table_size(levels, packed.bits), *_LEVELS) if levels else 0


@torch.no_grad()
def allocate(network: SpikingNetwork, squares: Mapping[Tensor, Tensor], budget: int) -> None:
    """Settles every learned width, anew. `squares`: the mean squared gradients of the weight matrices.

    From the fewest bits up: again and again the wider width that spares the loss most for each byte that it takes, of
    those that still fit; first of all one that takes none, as where rows have whole bytes anyway. Raises BadInput where
    not even the fewest bits do.
    """
    learned = [(layer, q) for layer in network.stack if isinstance(q := layer.quantizer, Learned)]
    for _, quantizer in learned:
        quantizer.width.fill_(Learned.widths[0])
    if (least := weight_bytes(network)) > budget:
        raise BadInput(f"training: budget: the weights take {least} bytes at the fewest bits, more than {budget}")
    cost = [{width: _cost(layer, q, width, squares) for width in Learned.widths} for layer, q in learned]
    while True:
        left, steps = budget - weight_bytes(network), []
        for number, (layer, quantizer) in enumerate(learned):
            now = int(quantizer.width)
            for wide in Learned.widths:
                taken = _bytes(network, layer, wide) - _bytes(network, layer, now)
                if wide > now and taken <= left:
                    spared = cost[number][now] - cost[number][wide]
                    steps.append((spared / taken if taken else math.inf, -number, wide))
        if not steps:
            return
        _, number, wide = max(steps)
        learned[-number][1].width.fill_(wide)


def _cost(layer: SpikingLayer, quantizer: Learned, width: int, squares: Mapping[Tensor, Tensor]) -> float:
    fan_in, recurrent, _ = layer.shifts.tolist()
    scale, total = layer.unit * 2.0**fan_in, 0.0
    for matrix, shift in zip(layer.matrices, (0, recurrent - fan_in), strict=False):
        error = quantizer.codes_at(width, matrix, scale, shift) * scale * 2.0**shift - matrix
        total += float((squares[matrix] * error.square()).sum()) / 2
    return total

"""A network takes over what another of the same shape has learned: quantized after training, or to be trained on.

From full precision, scales and ranges are calibrated on samples (see calibration.py). From quantized weights they are
inherited: of b − 1 bits, a scale is twice that of b, so that 8 → 4 → 2 bits keep each other's range.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from quantal.export.base.errors import BadInput
from quantal.qat.arithmetic.exact import FLOAT32
from quantal.qat.config.parts.fields import kinds, known
from quantal.qat.config.parts.layers import Layer, Pool, Reservoir
from quantal.qat.network.flow import Flow
from quantal.qat.network.layer import SpikingLayer
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.quantizers import calibration
from quantal.qat.quantizers.calibration import InHindsight
from quantal.qat.quantizers.weights import Lsq

METHODS = ("minmax", "percentile", "mse", "hindsight", "gpfq")
SHARE = 0.999
_ROWS, _VALUES, _BATCH = 8192, 65_536, 16  # of the calibration sample: steps for GPFQ, membranes, samples a batch


@torch.no_grad()
def warm_start(network: SpikingNetwork, source: SpikingNetwork, x: Tensor, method: str, final: bool) -> None:
    """Gives `network` the parameters of `source`, and scales and ranges by `method`; x (samples, steps, inputs).

    minmax and percentile choose weight scales and state ranges alike; hindsight has min-max scales, and the ranges by a
    running average over batches; mse has the scales of the least squared error, and the ranges with which the numbers
    of spikes so far differ least from full precision's; gpfq does as mse, and then chooses the codes one by one.
    Unless this is final, and no training follows, states begin with the ranges that they have in any training: those
    that fit a network in full precision are wider, and training does not come back from them.
    Raises BadInput where the networks differ in more than their precision.
    """
    _check(network, source, method, final)
    ours, theirs = Flow(network, x), Flow(source, x)
    for layer, teacher in zip(network.nodes, source.nodes, strict=True):
        trace: dict[str, Tensor] = {}
        after = theirs.run(teacher, trace)
        if isinstance(layer, SpikingLayer) and isinstance(teacher, SpikingLayer):
            row = _take(layer, teacher)
            if bool((row != 1).any()) and (layer.added is not None or layer.config.name in ours.currents):
                raise BadInput(f"--from: layer {layer.config.name}: add: rows cannot be scaled to one threshold")
            membrane = trace.get(f"{teacher.config.name}.u", torch.zeros(1, **FLOAT32))  # alpha neurons keep none
            _calibrate(layer, teacher, row, membrane, ours, after, method, final)
            if method == "gpfq":
                spikes = after if layer.recurrent is not None else None
                fit_codes(layer, theirs.seen(teacher), ours.seen(layer), spikes)
        ours.run(layer)


def _form(layer: Layer) -> dict[str, Any]:
    """What parameters that are taken over depend on, by the names of fields: all but numbers and precision."""
    form: dict[str, Any] = {"connection": layer.connection}
    form |= {name: getattr(layer, name) for name, field in known(type(layer)).items() if not kinds(field.type)}
    if isinstance(layer, Pool):
        return form
    neuron, fields = layer.neuron, ("reset", "timing", "pool", "decay_per", "spikes", "refractory")
    form |= {"neuron": neuron.kind} | {name: getattr(neuron, name) for name in fields}
    parts = {name: getattr(neuron, name) is not None for name in ("synapse", "adaptation")}
    form |= {name: "some" if there else "none" for name, there in (parts | {"decay": "decay" in neuron.decays}).items()}
    return form | {"standardize": layer.weights.standardize}


def _check(network: SpikingNetwork, source: SpikingNetwork, method: str, final: bool) -> None:
    ours, theirs = (n.config.layers for n in (network, source))
    if len(ours) != len(theirs) or network.inputs != source.inputs:
        raise BadInput(f"--from: its network has {source.inputs} inputs and {len(theirs)} layers, not those asked for")
    for mine, other in zip(ours, theirs, strict=True):
        if isinstance(mine, Reservoir):
            raise BadInput(f"--from: layer {mine.name}: reservoir: is drawn, and not taken over from a run")
        form, own = _form(mine), _form(other)
        for field in own:
            if form.get(field) != own[field]:
                raise BadInput(f"--from: layer {other.name}: {field}: its own is {own[field]!r}")
    if method == "hindsight" and not final:
        raise BadInput("--calibration: hindsight finds ranges of states, which training finds itself: needs --epochs 0")
    if method == "gpfq" and any(type(layer.quantizer) is not Lsq for layer in network.stack):
        raise BadInput("--calibration: gpfq chooses codes of lsq, and some layer's weights have another quantizer")
    if method == "gpfq" and any(one.config.groups > 1 or one.config.recurrent == "diagonal" for one in network.stack):
        raise BadInput("--calibration: gpfq fits rows that see all that a layer sees, not groups and no diagonals")
    if method == "gpfq" and any(one.config.weights.standardize or one.config.norm == "psp" for one in network.stack):
        raise BadInput("--calibration: gpfq chooses the weights themselves, which standardize and a psp norm change")


def _take(layer: SpikingLayer, teacher: SpikingLayer) -> Tensor:
    """Copies the real parameters. Returns what rows are multiplied by: where all have one threshold, to have it."""
    row = torch.ones(layer.rows, **FLOAT32)
    if teacher.real_threshold is not None:
        if layer.threshold is None:
            row = layer.state_reach / teacher.real_threshold.expand(layer.rows)
        elif len(layer.threshold) < len(teacher.real_threshold):
            layer.threshold.copy_(teacher.real_threshold.mean())
            row = layer.threshold / teacher.real_threshold
        else:
            layer.threshold.copy_(teacher.real_threshold)
    factor = row[:, None]
    if layer.config.weights.standardize and bool((row != 1).any()):
        raise BadInput(f"--from: layer {layer.config.name}: standardize: rows cannot be scaled to one threshold")
    if layer.psp is not None and teacher.psp is not None:
        layer.psp.load_state_dict(teacher.psp.state_dict())
    if layer.norm is not None and teacher.norm is not None:
        layer.norm.load_state_dict(teacher.norm.state_dict())
        layer.norm.gain.mul_(row)  # which scales all of the row's current
        factor = torch.ones_like(factor)
    layer.weight.copy_(teacher.weight * factor)
    if layer.recurrent is not None and teacher.recurrent is not None:
        layer.recurrent.copy_(teacher.recurrent * factor)
    if layer.bias is not None and teacher.bias is not None:
        layer.bias.copy_(teacher.bias * row)
    for name, decay in layer.decays.items():
        decay.copy_(teacher.decays[name])
    if layer.adaptation is not None and teacher.adaptation is not None:
        layer.adaptation.copy_(teacher.adaptation * row)
    return row


def _calibrate(
    layer: SpikingLayer, teacher: SpikingLayer, row: Tensor, code: Tensor, flow: Flow, wanted: Tensor, method: str,
    final: bool,
) -> None:  # fmt: skip
    """Scales, and ranges for the teacher's membrane `code`; flow: the layer's network so far; wanted: its output."""
    if type(layer.quantizer) is Lsq and type(teacher.quantizer) is Lsq:
        change = int(teacher.shifts[0]) + teacher.quantizer.bits - layer.quantizer.bits
        scale = layer.of_rows(teacher.unit * row[:, None] * 2.0**change)
        back = float(scale.mean()) * 2.0 ** int(teacher.shifts[1] - teacher.shifts[0])
    else:
        weights = layer.weights()
        layer.quantizer.begin(weights[0], layer.scale_per_row)
        scale = weight_scale(layer, weights[0], method)
        back = float((scale if layer.recurrent is None else weight_scale(layer, weights[1], method)).mean())
    own, theirs = layer.config.states, teacher.config.states
    alike = type(own) is type(theirs) and own.membrane == theirs.membrane
    if alike and layer.ranges is not None and teacher.ranges is not None:
        layer.choose_units(scale, back)
        layer.ranges.copy_(teacher.ranges)
        return
    if not final or not layer.spans:
        layer.choose_units(scale, back)
        return
    if method in ("mse", "gpfq") and layer.neuron.fires:
        reach = layer.state_reach if layer.threshold is None else float(layer.threshold.mean())
        ranges = [(-reach * low, reach * high) for low in (0.5, 1, 2, 4, 8, 16) for high in (1.25, 2, 4, 8, 16)]
    else:
        worth = teacher.unit.squeeze(1) * row
        worth = worth if teacher.norm is None else worth * teacher.norm.affine()[1]
        membrane = teacher.integers().params.grid.decode(flow.network.ops, code) * layer.of_neurons(worth)
        ranges = [_range(membrane, method)]
    tried = []
    for span in ranges:
        layer.choose_units(scale, back, span)
        # Spikes so far, not spikes: silence would be nearer to sparse spikes than the same ones a step late.
        missed = (flow.output(layer) - wanted).cumsum(0) if len(ranges) > 1 else torch.zeros((), **FLOAT32)
        tried.append((float(missed.square().mean()), span))
    layer.choose_units(scale, back, min(tried)[1])


def weight_scale(layer: SpikingLayer, weight: Tensor, method: str) -> Tensor:
    """The scale to start from that `method` finds for a weight matrix of the layer, (size, 1) or (1, 1)."""
    quantizer = layer.quantizer
    if type(quantizer) is not Lsq:
        return layer.first_scale(weight)
    by = "minmax" if method == "hindsight" else method.replace("gpfq", "mse")
    per_row = layer.scale_per_row and layer.state_quantizer is None
    if quantizer.bits > 1:
        return layer.of_rows(calibration.scale_of(weight, quantizer.limit, by, per_row, SHARE))
    # Signs have no range to choose: the least squared error, which is mean|w|.
    signs = partial(quantizer.codes, scale=torch.ones(1, 1, **FLOAT32), shift=0)
    return layer.of_rows(calibration.best_scale(weight, signs, 1, per_row))


def _range(membrane: Tensor, method: str) -> tuple[float, float]:
    """(lo, hi) of the membrane (steps, samples, neurons)."""
    if method == "percentile":
        found = calibration.percentile(_sampled(membrane.flatten(), _VALUES), SHARE)
    elif method == "hindsight":
        running = InHindsight()
        for first in range(0, membrane.shape[1], _BATCH):
            running.update(membrane[:, first : first + _BATCH])
        found = running.range or calibration.min_max(membrane)
    else:
        found = calibration.min_max(membrane)
    return float(found[0]), float(found[1])


def _sampled(values: Tensor, most: int) -> Tensor:
    """At most so many of the first dimension, evenly spread."""
    return values[:: -(-len(values) // most)] if len(values) else values


def fit_codes(layer: SpikingLayer, given: Tensor, quantized: Tensor, spikes: Tensor | None) -> None:
    """GPFQ: weights that lie on their grid, from what enters in full precision (`given`) and as it is now.

    Of the spikes that come back both networks get the teacher's: the layer's own are not known before its codes are.
    """
    shift = int(layer.shifts[0])
    scale = layer.unit * 2.0**shift
    columns: list[tuple[Tensor, Tensor, Tensor]] = [(layer.weight, layer.columns(given), layer.columns(quantized))]
    if layer.recurrent is not None and spikes is not None:
        # One grid for all columns: the recurrent weights' is a power of two coarser or finer.
        factor = 2.0 ** int(layer.shifts[1] - shift)
        before = torch.cat([torch.zeros_like(spikes[:1]), spikes[:-1]]) * factor
        columns.append((layer.recurrent / factor, before, before))
    weights, analog, now = (torch.cat(part, dim=-1) for part in zip(*columns, strict=True))

    def nearest(w: Tensor) -> Tensor:
        return (scale * layer.quantizer.codes(w[:, None], scale, 0)).squeeze(1)

    analog, now = (_sampled(part.flatten(0, -2), _ROWS) for part in (analog, now))
    found = calibration.gpfq(weights, analog, now, nearest)
    inputs = layer.weight.shape[1]
    layer.weight.copy_(found[:, :inputs])
    if layer.recurrent is not None and spikes is not None:
        layer.recurrent.copy_(found[:, inputs:] * factor)

"""Whether the fields of a layer and of its training go together: nothing contradicts, and nothing is without effect."""

from dataclasses import fields
from typing import Any

from quantal.export.base.errors import BadInput
from quantal.qat.arithmetic.neurons import NEURONS, RESETTING
from quantal.qat.config.graph import check_graph
from quantal.qat.config.schema import Config, Layer
from quantal.qat.quantizers.normalization import CURRENT_NORMS
from quantal.qat.quantizers.states import AFTER_RESET, STATE_QUANTIZERS
from quantal.qat.quantizers.weights import WEIGHT_QUANTIZERS, MaQD

CHAINED = {"connection": ("dense",), "inputs": ((),), "delays": ((0,),), "add": ("",), "recurrence": ("full",)}
"""What makes a chain of dense layers: of each field, the values."""

_ACCUMULATES: dict[str, tuple[Any, ...]] = {
    **CHAINED,
    "neuron": ("lif", "li"),
    "reset": ("subtract",),
    "timing": ("delayed", "immediate"),
    "synapse": ("none",),
    "adaptation": (0,),
    "refractory": (0,),
    "spikes": (1,),
    "norm": ("none",),
    "pool": ("last",),
    "decay_per": ("layer",),
    "state_quantizer": tuple(name for name, table in STATE_QUANTIZERS.items() if table is None),
}
"""What a membrane must be for SAF, a sum over accumulated spikes: of each field, the values."""


def check_accumulates(config: Config, where: str) -> None:
    """Raises BadInput where spike accumulation forwarding does not say what a gradient is."""
    method = config.training.method
    for i, layer in enumerate(config.layers):
        for name, known in _ACCUMULATES.items():
            if getattr(layer, name) not in known:
                expected = f"{method} trains {' or '.join(map(str, known))}, got {getattr(layer, name)!r}"
                raise BadInput(f"{where}: layer[{i}]: {name}: {expected}")
    for name, none in (("forward", "hard"), ("penalty", 0), ("loss", "last"), ("truncate", 0)):
        if (value := getattr(config.training, name)) != none:
            raise BadInput(f"{where}: training: {name}: {method} trains with {none}, got {value!r}")


_RESPONDS = {"reset": ("zero", "none"), "timing": ("delayed",), "synapse": ("none",), "state_quantizer": ("uniform",)}
_MEMORY = ("recurrent", "decay", "synapse", "adaptation", "refractory", "reset", "timing")


def check_neuron(layer: Layer, place: str) -> None:
    """Raises BadInput where fields say what the neuron cannot do, or what has no effect."""
    fires, alpha = NEURONS[layer.neuron].fires, layer.neuron == "alpha"
    for name in _MEMORY if NEURONS[layer.neuron].stateless else ():
        if getattr(layer, name) != getattr(Layer, name):
            raise BadInput(f"{place}: {name}: {layer.neuron} neurons have no memory")
    for name, value in (("adaptation", layer.adaptation), ("refractory", layer.refractory)):
        if value and (not fires or alpha):
            raise BadInput(f"{place}: {name}: {layer.neuron} neurons have none")
        if value and layer.spikes > 1:
            raise BadInput(f"{place}: {name}: goes with one spike at a time, not {layer.spikes}")
    if alpha:
        for name, known in _RESPONDS.items():
            if getattr(layer, name) not in known:
                expected = " or ".join(map(repr, known))
                raise BadInput(f"{place}: {name}: alpha neurons have {expected}, got {getattr(layer, name)!r}")
        if layer.spikes > 1:
            raise BadInput(f"{place}: spikes: alpha neurons send one at a time")
        if layer.synapse_decay <= layer.decay:  # as in snnTorch: else a current counts against itself
            expected = f"alpha neurons have one above their decay, {layer.decay}"
            raise BadInput(f"{place}: synapse_decay: {expected}, got {layer.synapse_decay}")
    if layer.synapse_decay != Layer.synapse_decay and layer.synapse == "none" and not alpha:
        raise BadInput(f'{place}: synapse_decay: has no effect without synapse = "exponential"')
    if layer.adaptation_spread != Layer.adaptation_spread and not (layer.adaptation and layer.decay_per == "neuron"):
        raise BadInput(f'{place}: adaptation_spread: has no effect without adaptation and decay_per = "neuron"')
    if layer.adaptation_decay != Layer.adaptation_decay and not layer.adaptation:
        raise BadInput(f"{place}: adaptation_decay: has no effect without adaptation")
    if (layer.reset, layer.timing) not in RESETTING:
        expected = ", ".join(timing for reset, timing in RESETTING if reset == layer.reset)
        raise BadInput(f"{place}: timing: a reset {layer.reset} is {expected}, got {layer.timing!r}")
    if layer.timing == "snntorch" and (layer.adaptation or layer.refractory or layer.spikes > 1):
        raise BadInput(f"{place}: timing: snnTorch has no adaptation, no refractory steps and one spike at a time")
    if layer.states == 1 and (layer.synapse != "none" or layer.adaptation or alpha):
        raise BadInput(f"{place}: states: a current and an adaptation take 2 bits or more, got 1")


def check_reservoir(layer: Layer, place: str) -> None:
    """Raises BadInput unless what makes a reservoir stands in one, and its codes can have its zeros and signs."""
    if not layer.reservoir:
        for name in ("density", "inhibitory", "rate"):
            if getattr(layer, name) != getattr(Layer, name):
                raise BadInput(f"{place}: {name}: has no effect without reservoir = true")
        return
    if not layer.recurrent:
        raise BadInput(f"{place}: reservoir: is a recurrent layer, expected recurrent = true")
    if layer.norm != "none":
        raise BadInput(f"{place}: norm: is learned, and nothing of a reservoir is")
    if layer.weights != "float" and (layer.weight_quantizer != "lsq" or layer.weights in (1, "learned")):
        expected = "a reservoir's are 2 to 8 bits of lsq, or float"
        raise BadInput(f"{place}: weights: {expected}, got {layer.weights} of {layer.weight_quantizer}")


def check_ridge(config: Config, where: str) -> None:
    """Raises BadInput where a ridge regression cannot learn the network, and where fields have no effect on it."""
    training, readout, last = config.training, config.layers[-1], len(config.layers) - 1
    if training.method != "ridge":
        if training.ridge:
            raise BadInput(f'{where}: training: ridge: has no effect without method = "ridge"')
        return
    for i, layer in enumerate(config.layers[:-1]):
        if not layer.reservoir:
            raise BadInput(f"{where}: layer[{i}]: reservoir: ridge learns the readout alone, expected true")
    for name, known in (("neuron", "li"), ("pool", "last"), ("norm", "none"), ("standardize", False)):
        if getattr(readout, name) != known:
            raise BadInput(f"{where}: layer[{last}]: {name}: ridge fits {known!r}, got {getattr(readout, name)!r}")
    if training.epochs:
        raise BadInput(f"{where}: training: epochs: ridge takes none, expected 0, got {training.epochs}")
    for f in fields(training):
        if f.name not in ("method", "ridge", "seed", "epochs") and getattr(training, f.name) != f.default:
            raise BadInput(f"{where}: training: {f.name}: has no effect on ridge")


def quantizers(layer: Layer) -> set[str]:
    """The kinds of the quantizers that it uses: dq for dq, dq-kmeans, …"""
    weights = [] if layer.weights == "float" else [layer.weight_quantizer]
    states = [] if layer.states == "float" or NEURONS[layer.neuron].stateless else [layer.state_quantizer]
    return {name.partition("-")[0] for name in weights + states}


def check_precision(layer: Layer, place: str) -> None:
    """Raises BadInput unless the quantizers come in these bits and fit each other."""
    bits = WEIGHT_QUANTIZERS[layer.weight_quantizer][1]
    if layer.weights == "learned" and layer.weight_quantizer != "lsq":
        raise BadInput(f"{place}: weights: {layer.weight_quantizer} does not learn its bits, lsq does")
    if not isinstance(layer.weights, str) and layer.weights not in bits:
        raise BadInput(
            f"{place}: weights: {layer.weight_quantizer} comes in {bits[0]} to {bits[-1]} bits, got {layer.weights}"
        )
    changed = layer.standardize or layer.norm == "psp"
    if layer.standardize and WEIGHT_QUANTIZERS[layer.weight_quantizer][0] is MaQD:
        raise BadInput(f"{place}: standardize: has no effect on {layer.weight_quantizer}, which does so anyway")
    if layer.weights == "learned" and changed:
        raise BadInput(f"{place}: weights: learned bits are settled by weights that no psp norm or standardize changes")
    if layer.states == "float" or NEURONS[layer.neuron].stateless:
        return
    tabled = STATE_QUANTIZERS[layer.state_quantizer] is not None
    least, most = (1, 8) if tabled else (2, 16)
    if not least <= int(layer.states) <= most:
        raise BadInput(f"{place}: states: {layer.state_quantizer} comes in {least} to {most} bits, got {layer.states}")
    at_once = NEURONS[layer.neuron].fires and layer.reset == "subtract" and layer.timing != "delayed"
    if at_once and layer.state_quantizer == "uniform" and layer.state_range >= 2 ** int(layer.states):
        wide = f"{layer.state_range:g} thresholds in {layer.states} bits are two or more a level"
        raise BadInput(f"{place}: state_range: {wide}: subtracting one at once is rounded away; try more bits")
    if layer.state_gradient != "clip" and not layer.state_quantizer.startswith(("squat", "aligned")):
        raise BadInput(f"{place}: state_gradient: {layer.state_quantizer} states have their own alone")
    if layer.states == 1 and layer.resets_at_once and layer.state_quantizer not in AFTER_RESET:
        raise BadInput(f'{place}: timing: one bit that is reset at once is the spike itself, expected "delayed"')
    if tabled:
        if layer.spikes > 1:
            raise BadInput(f"{place}: spikes: {layer.state_quantizer} states end below a second threshold")
        if layer.threshold_per != "auto":
            raise BadInput(f"{place}: threshold_per: {layer.state_quantizer} states learn each row's scale instead")
        if layer.norm in CURRENT_NORMS:
            raise BadInput(f"{place}: norm: scales each neuron, but {layer.state_quantizer} states have one table")


def check(config: Config, where: str) -> None:
    """Raises BadInput unless the layers form a network: names, one readout at the end, nothing without effect."""
    check_graph(config, where)
    weighted = [layer for layer in config.layers if layer.connection != "pool"]
    for i, layer in enumerate(config.layers):
        place = f"{where}: layer[{i}]"
        if layer.connection == "pool":
            continue
        neuron = NEURONS[layer.neuron]
        last = i == len(config.layers) - 1
        if neuron.readout != last:
            readouts = ", ".join(name for name, row in NEURONS.items() if row.readout)
            raise BadInput(f"{place}: neuron: expected a readout ({readouts}) as the last layer and only there")
        if layer.recurrent and neuron.readout:
            raise BadInput(f"{place}: recurrent: a {layer.neuron} readout takes no recurrent weights")
        if layer.pool != "last" and layer.neuron != "li":
            raise BadInput(f"{place}: pool: only an li readout pools over time")
        if neuron.readout and layer.norm in CURRENT_NORMS:
            raise BadInput(f"{place}: norm: a readout's classes are compared, so its currents are not normalized")
        if layer.spikes > 1 and not neuron.fires:
            raise BadInput(f"{place}: spikes: an {layer.neuron} readout sends none")
        check_neuron(layer, place)
        check_reservoir(layer, place)
        if layer.reservoir and i and not config.layers[i - 1].reservoir:
            raise BadInput(f"{place}: reservoir: what it sees may not change: only reservoirs stand before one")
        check_precision(layer, place)
        if (layer.weights == "float") != (weighted[0].weights == "float"):
            raise BadInput(f"{place}: weights: float weights are for comparison, in all layers or in none")
    differentiable = any("dq" in quantizers(layer) for layer in weighted)
    if config.training.forward == "soft" and not differentiable:
        raise BadInput(f"{where}: training: forward: soft is for differentiable quantizers, and no layer has one")
    if config.training.loss == "regression" and config.layers[-1].neuron != "li":
        raise BadInput(f"{where}: training: loss: regression reads an li readout, not a {config.layers[-1].neuron}")
    if config.training.penalty and len(config.layers) == 1:
        raise BadInput(f"{where}: training: penalty: is on spikes between layers, and there is one layer")
    if config.training.penalty and any(layer.connection == "pool" for layer in config.layers):
        raise BadInput(f"{where}: training: penalty: is on spikes, and some layer sends their sums")
    if config.training.truncate and any(layer.norm != "none" for layer in config.layers):
        raise BadInput(f"{where}: training: truncate: a norm takes its moments of all steps, and gradients pass them")
    if config.training.method in ("saf-e", "saf-f"):
        check_accumulates(config, where)
    if config.training.method == "ridge" or any(layer.reservoir for layer in config.layers):
        for i, layer in enumerate(config.layers):
            for name, (value,) in CHAINED.items():
                if getattr(layer, name) != value:
                    raise BadInput(f"{where}: layer[{i}]: {name}: reservoirs and ridge are for chains of dense layers")
    check_ridge(config, where)
    learned = any(layer.weights == "learned" for layer in weighted)
    if learned != bool(config.training.budget):
        raise BadInput(f'{where}: training: budget: goes with weights = "learned" in some layer, and that with it')

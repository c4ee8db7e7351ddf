"""Layers written in one line: every field of every part by a name of its own, wherever it stands in a network file."""

from typing import Any

from quantal.qat.config.parts.fields import Part, kinds, known, tag
from quantal.qat.config.parts.layers import Dense, Layer, Reservoir
from quantal.qat.config.parts.neurons import Adaptation, Neuron, Synapse
from quantal.qat.config.parts.states import States
from quantal.qat.config.parts.weights import Weights

# What a field of a part is called here, where that is not its own name.
_CALLED = {
    "weights": {"bits": "weights"},
    "states": {"membrane": "states", "current": "current_bits", "adaptation": "adaptation_bits", "range": "state_range",
               "gradient": "state_gradient"},
}  # fmt: skip
_KIND = {"neuron": "neuron", "weights": "weight_quantizer", "states": "state_quantizer"}


def a_layer(name: str, size: int, **flat: Any) -> Layer:
    """A dense layer, or a reservoir, with these fields; what has no effect on it is left out."""
    kind = Reservoir if flat.pop("reservoir", False) else Dense
    own = {field: flat[field] for field in known(kind) if field in flat and field not in _KIND}
    return kind(
        name=name,
        size=size,
        neuron=_part(Neuron, "neuron", _with_traces(flat)),
        weights=_part(Weights, "weights", flat),
        states=_part(States, "states", flat),
        **own,
    )


def changed(layer: Layer, **flat: Any) -> Layer:
    """The layer with other fields, named as in `a_layer`."""
    return a_layer(**{"name": layer.name, "size": layer.size} | fields_of(layer) | flat)


def fields_of(layer: Layer) -> dict[str, Any]:
    """The fields of a dense layer or a reservoir, named as in `a_layer`."""
    found = {field: getattr(layer, field) for field in known(type(layer)) if field not in _KIND}
    found |= {"reservoir": True} if isinstance(layer, Reservoir) else {}
    for name, called in _KIND.items():
        part = getattr(layer, name)
        names = _CALLED.get(name, {})
        found |= {names.get(field, field): getattr(part, field) for field in known(type(part))} | {called: tag(type(part))}
        found |= {called: flat} if (flat := part.quantizer if name != "neuron" else "") == "float" else {}
    return found


def _with_traces(flat: dict[str, Any]) -> dict[str, Any]:
    """The fields with a synapse and an adaptation that are parts."""
    found = dict(flat)
    if flat.get("synapse") == "exponential":
        found["synapse"] = Synapse(decay=flat.get("synapse_decay", 0.8))
    elif flat.get("synapse") == "none":
        found["synapse"] = None
    if isinstance(amount := flat.get("adaptation"), int | float):
        more = {"decay": flat.get("adaptation_decay", 0.95), "spread": flat.get("adaptation_spread", 1.0)}
        found["adaptation"] = Adaptation(amount=amount, **more) if amount else None
    return found


def _part(union: Any, name: str, flat: dict[str, Any]) -> Part:
    possible = {tag(kind): kind for kind in kinds(union)}
    if isinstance(flat.get(name), Part):
        return flat[name]
    chosen = "float" if flat.get(name) == "float" and name != "neuron" else flat.get(_KIND[name])
    kind = possible[chosen] if chosen else next(iter(possible.values()))
    names = _CALLED.get(name, {})
    return kind(**{field: flat[called] for field in known(kind) if (called := names.get(field, field)) in flat})

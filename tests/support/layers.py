"""Layers written in one line: every field of every part by a name of its own, wherever it stands in a network file."""

import dataclasses
from typing import Any

import msgspec

from quantal.qat.config.parts.fields import Part, kinds, known, tag
from quantal.qat.config.parts.layers import Conv, Dense, Reservoir
from quantal.qat.config.parts.neurons import Adaptation, Neuron, Synapse
from quantal.qat.config.parts.states import States, Uniform
from quantal.qat.config.parts.weights import Weights
from quantal.qat.config.rules import spans

# Of each part: what says its kind here, and the fields that are called otherwise than in a file.
_PARTS: dict[str, tuple[Any, str, dict[str, str]]] = {
    "neuron": (Neuron, "neuron", {}),
    "weights": (Weights, "weight_quantizer", {"bits": "weights"}),
    "states": (
        States,
        "state_quantizer",
        {"membrane": "states", "current": "current_bits", "adaptation": "adaptation_bits", "range": "state_range",
         "gradient": "state_gradient"},
    ),
}  # fmt: skip


def a_layer(name: str, size: int, **flat: Any) -> Any:
    """A dense layer, or a reservoir, with these fields; what has no effect on it is left out."""
    return _of(Reservoir if flat.get("reservoir") else Dense, {**flat, "name": name, "size": size})


def replace(value: Any, **changes: Any) -> Any:
    """The dataclass or the part with other fields; those of a layer are named as in `a_layer`."""
    if isinstance(value, Dense | Reservoir | Conv):
        return _of(type(value), fields_of(value) | changes)
    other = msgspec.structs.replace if isinstance(value, Part) else dataclasses.replace
    return other(value, **changes)


def _of(kind: type[Part], flat: dict[str, Any]) -> Any:
    if unknown := flat.keys() - _named(kind):
        raise TypeError(f"a layer of tests has no field {', '.join(sorted(unknown))}")
    own = {field: flat[field] for field in known(kind) if field in flat and field not in _PARTS}
    flat = _with_traces(flat)
    layer = kind(**own, **{part: _part(part, flat) for part in _PARTS})
    neuron, states = layer.neuron, layer.states
    if not neuron.stateless and not neuron.decays:
        neuron = msgspec.structs.replace(neuron, decay_per="layer")
    traces = {"current": neuron.synapse, "adaptation": neuron.adaptation}
    if states.quantized:
        unused = {field: None for field, made in traces.items() if made is None}
        states = msgspec.structs.replace(states, **unused)
    if neuron.stateless:
        states = Uniform()
    elif not spans(layer):
        states = msgspec.structs.replace(states, range=2.0)
    return msgspec.structs.replace(layer, neuron=neuron, states=states)


def _named(kind: type[Part]) -> set[str]:
    """All names of fields, of a layer of that kind and of any of its parts."""
    named = {*known(kind), *known(Dense), "reservoir", "adaptation_decay", "adaptation_spread"}
    for part, (union, word, called) in _PARTS.items():
        named |= {part, word} | {called.get(field, field) for made in kinds(union) for field in known(made)}
    return named


def fields_of(layer: Any) -> dict[str, Any]:
    """The fields of a layer with neurons, named as in `a_layer`."""
    found: dict[str, Any] = {field: getattr(layer, field) for field in known(type(layer)) if field not in _PARTS}
    found["reservoir"] = isinstance(layer, Reservoir)
    for name, (_, kind, called) in _PARTS.items():
        part = getattr(layer, name)
        found |= {called.get(field, field): getattr(part, field) for field in known(type(part))}
        found |= {name: "float"} if tag(type(part)) == "float" else {kind: tag(type(part))}
    return found


def _with_traces(flat: dict[str, Any]) -> dict[str, Any]:
    """The fields with a synapse and an adaptation that are parts."""
    found = dict(flat)
    if isinstance(word := flat.get("synapse"), str):
        found["synapse"] = None if word == "none" else Synapse(decay=flat.get("synapse_decay", 0.8))
    amount = flat.get("adaptation") or None
    if isinstance(amount, int | float):
        amount = Adaptation(amount=amount)
    if amount is not None:
        changes = {part: flat[name] for part in ("decay", "spread") if (name := f"adaptation_{part}") in flat}
        amount = msgspec.structs.replace(amount, **changes)
    return found | {"adaptation": amount}


def _part(name: str, flat: dict[str, Any]) -> Any:
    union, kind, called = _PARTS[name]
    possible = {tag(one): one for one in kinds(union)}
    chosen = "float" if flat.get(name) == "float" else flat.get(kind, next(iter(possible)))
    if isinstance(chosen, Part):
        return chosen
    made = possible[chosen]
    names = {field: called.get(field, field) for field in known(made)}
    return made(**{field: flat[word] for field, word in names.items() if word in flat})

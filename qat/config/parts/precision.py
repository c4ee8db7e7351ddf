"""The same network in another precision: other weights or states in every layer that has any."""

from typing import Any

import msgspec
from msgspec.structs import replace
from quantal.export.base.errors import BadInput
from quantal.qat.config.parts.fields import kinds, known, tag, tag_field
from quantal.qat.config.parts.layers import Pool
from quantal.qat.config.parts.network import Config
from quantal.qat.config.parts.problems import Problems
from quantal.qat.config.parts.reader import part
from quantal.qat.config.parts.rules import spans

Bits = int | str | None
"""How many, "float" or "learned"; None for a layer's own."""


def with_precision(
    config: Config,
    *,
    weights: Bits = None,
    states: Bits = None,
    weight_quantizer: str | None = None,
    state_quantizer: str | None = None,
) -> Config:
    """The network with these in all layers. Raises BadInput where a quantizer does not come in so many bits."""
    return replace(
        config,
        layers=tuple(
            layer if isinstance(layer, Pool) else _layer(layer, (weight_quantizer, weights), (state_quantizer, states))
            for layer in config.layers
        ),
    )


def full_precision(config: Config) -> Config:
    """The network with weights and states in full precision."""
    return with_precision(config, weights="float", states="float")


def _layer(layer: Any, weights: tuple[str | None, Bits], states: tuple[str | None, Bits]) -> Any:
    layer = replace(layer, weights=_in(layer, "weights", *weights))
    if layer.neuron.stateless:
        return layer
    layer = replace(layer, states=_in(layer, "states", *states))
    return layer if spans(layer) or not layer.states.quantized else replace(layer, states=replace(layer.states, range=2.0))


def _in(layer: Any, name: str, quantizer: str | None, bits: Bits) -> Any:
    """The part of that name in another quantizer, in so many bits, with all else that it has there too."""
    own = getattr(layer, name)
    if quantizer is None and bits is None:
        return own
    annotation = known(type(layer))[name].type
    possible = {tag(kind): kind for kind in kinds(annotation)}
    first = next(iter(possible.values()))
    if bits == "float":
        quantizer = "float"
    elif quantizer is None:
        quantizer = own.quantizer if own.quantized else tag(first)
    table = msgspec.to_builtins(own) | {tag_field(first): quantizer}
    if kind := possible.get(quantizer):
        table = {field: value for field, value in table.items() if field in (tag_field(kind), *known(kind))}
        if bits not in (None, "float") and kind.number not in known(kind):
            if bits != getattr(kind, kind.number):
                raise BadInput(f"layer {layer.name}: {name}: {quantizer} has {getattr(kind, kind.number)} bits, got {bits}")
        elif bits not in (None, "float"):
            table[kind.number] = bits
    problems = Problems()
    found = part(annotation, {field: value for field, value in table.items() if value is not None}, (name,), problems)
    problems.refuse(f"layer {layer.name}")
    return found

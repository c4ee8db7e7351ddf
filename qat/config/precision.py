"""The same network in another precision: other weights or states in every layer that has any."""

from typing import Any

import msgspec

from quantal.export.base.errors import BadInput
from quantal.export.base.typed import expected, fits
from quantal.qat.config.parts.fields import kinds, known, replace, tag, tag_field
from quantal.qat.config.parts.layers import Pool
from quantal.qat.config.parts.network import Config
from quantal.qat.config.problems import Problems
from quantal.qat.config.reader import part
from quantal.qat.config.rules import spans

WEIGHT_BITS = (*range(1, 9), "learned", "float")
STATE_BITS = (*range(1, 17), "float")
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
    if spans(layer):
        return layer
    return replace(layer, states=replace(layer.states, range=2.0))


def _in(layer: Any, name: str, quantizer: str | None, bits: Bits) -> Any:
    """The part of that name in another quantizer, in so many bits, with all else that it has there too."""
    own = getattr(layer, name)
    if quantizer is None and bits is None:
        return own
    annotation = known(type(layer))[name].type
    possible = {tag(kind): kind for kind in kinds(annotation)}
    first = next(iter(possible.values()))
    if bits == "float":
        quantizer, bits = "float", None
    elif quantizer is None:
        quantizer = own.quantizer if own.quantized else tag(first)
    kind = possible.get(quantizer, first)
    number, fields = kind.number, known(kind)
    fitting = fits(fields[number].type, bits) if number in fields else bits == getattr(kind, number)
    if bits is not None and not fitting:
        takes = expected(fields[number].type) if number in fields else str(getattr(kind, number))
        raise BadInput(f"layer {layer.name}: {name}: {quantizer} comes in {takes} bits, got {bits}")
    table = msgspec.to_builtins(own) | ({} if bits is None else {number: bits})
    table = {field: value for field, value in table.items() if field in fields and value is not None}
    problems = Problems()
    found = part(annotation, table | {tag_field(first): quantizer}, (name,), problems)
    problems.refuse(f"layer {layer.name}")
    return found

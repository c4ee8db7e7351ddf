"""Whether layers form a network: names, what each sees, what is added, one readout at the end."""

from dataclasses import fields, replace

from quantal.export.base import names
from quantal.export.base.errors import BadInput, shown
from quantal.export.base.reading import check_memory
from quantal.export.base.windows import Window
from quantal.export.ir.check import MOST_DELAY, MOST_HELD
from quantal.qat.config.schema import Config, Layer
from quantal.qat.quantizers.normalization import CURRENT_NORMS
from quantal.qat.quantizers.states import STATE_QUANTIZERS

LEARNING = 16  # bytes a weight: its value, its gradient, and the two moments of Adam
_WINDOW = ("channels", "groups", "shape", "kernel", "stride", "padding")
_OF_POOLS = (  # of which the last are set for all layers at once
    "name", "size", "inputs", "connection", "shape", "kernel", "stride", "padding", "neuron",
    "weights", "states", "weight_quantizer", "state_quantizer",
)  # fmt: skip


def check_graph(config: Config, where: str) -> None:
    """Raises BadInput, naming the layer and the field, unless every layer sees earlier ones, and is seen."""
    sizes = {"input": 0}
    for i, (layer, sources) in enumerate(zip(config.layers, config.sources, strict=True)):
        place = f"{where}: layer[{i}]"
        names.check_identifier(layer.name, f"{place}: name")
        if layer.name in sizes:
            raise BadInput(f"{place}: name: {shown(layer.name)} is taken")
        for name in sources:
            if name not in sizes:
                raise BadInput(f"{place}: inputs: expected the input or earlier layers, got {shown(name)}")
        if len(set(sources)) != len(sources):
            raise BadInput(f"{place}: inputs: one of them stands there twice")
        if not layer.delays or sorted(set(layer.delays)) != list(layer.delays) or layer.delays[0] < 0:
            raise BadInput(f"{place}: delays: expected ascending numbers of steps, got {shown(list(layer.delays))}")
        if layer.delays[-1] > MOST_DELAY:
            raise BadInput(f"{place}: delays: expected at most {MOST_DELAY} steps, got {shown(layer.delays[-1])}")
        if layer.delays[-1] >= config.encoder.steps:
            late = f"expected fewer than the {config.encoder.steps} steps of a sample, got {layer.delays[-1]}"
            raise BadInput(f"{place}: delays: {late}: so late, it sees nothing")
        if layer.add:
            _check_added(config, i, place)
        _check_connection(layer, sources, place)
        sizes[layer.name] = layer.size
    names.check_layers(
        {layer.name: f"{where}: layer[{i}]: name" for i, layer in enumerate(config.layers)}, _made(config)
    )
    if config.layers[-1].connection == "pool":
        raise BadInput(f"{where}: layer[{i}]: connection: expected a readout as the last layer, and a pool is none")
    check_size(config, 1, where)
    seen = {name for sources in config.sources for name in sources} | {layer.add for layer in config.layers}
    for i, layer in enumerate(config.layers[:-1]):
        if layer.name not in seen:
            raise BadInput(f"{where}: layer[{i}]: name: no layer sees {layer.name!r}")


def _made(config: Config) -> dict[str, str]:
    """The layers that lowering makes beside those of the configuration: what is seen late, what is added."""
    made = {names.current(layer.add): f"the current of {layer.add}" for layer in config.layers if layer.add}
    for layer, sources in zip(config.layers, config.sources, strict=True):
        for source in sources:
            late = (delay for delay in layer.delays if delay)
            made |= {names.relay(source, delay): f"{source} {delay} steps late" for delay in late}
    return made


def check_size(config: Config, inputs: int, where: str) -> None:
    """Raises BadInput where the weights for so many inputs, or what is held for delays, take more than is allowed."""
    counts = config.weight_counts(inputs)
    name = max(counts, key=lambda one: counts[one])
    check_memory(
        LEARNING * sum(counts.values()),
        f"{where}: layer {name}",
        f"learning {counts[name]:,} weights, and those of the other layers,",
    )
    sizes = {"input": inputs} | {layer.name: layer.size for layer in config.layers}
    for layer, sources in zip(config.layers, config.sources, strict=True):
        held = sum(sizes[source] for source in sources) * layer.delays[-1]
        if held > MOST_HELD:
            raise BadInput(f"{where}: layer {layer.name}: delays: hold {held:,} values, expected at most {MOST_HELD:,}")


def _check_connection(layer: Layer, sources: tuple[str, ...], place: str) -> None:
    if layer.connection == "dense":
        for name in _WINDOW:
            if getattr(layer, name) != getattr(Layer, name):
                raise BadInput(f"{place}: {name}: has no effect on a dense connection")
    else:
        if len(sources) > 1 or layer.delays != (0,):
            name = "inputs" if len(sources) > 1 else "delays"
            raise BadInput(f"{place}: {name}: a {layer.connection} sees one layer as it is now")
        if layer.recurrent:
            raise BadInput(f"{place}: recurrent: only dense layers are")
    if (layer.neuron == "none") != (layer.connection == "pool"):
        raise BadInput(f'{place}: neuron: "none" is for connection = "pool", and the only one there')
    if layer.connection == "pool":
        for f in fields(layer):
            if f.name not in _OF_POOLS and getattr(layer, f.name) != f.default:
                raise BadInput(f"{place}: {f.name}: has no effect on a pool, which has neither weights nor neurons")
    if layer.recurrence != "full" and not layer.recurrent:
        raise BadInput(f"{place}: recurrence: has no effect without recurrent = true")


def _check_added(config: Config, index: int, place: str) -> None:
    """Raises BadInput unless the current that the layer adds has a unit that it can count in too."""
    layer = config.layers[index]
    other = next((one for one in config.layers[:index] if one.name == layer.add), None)
    if other is None or other.connection == "pool":
        raise BadInput(f"{place}: add: expected an earlier layer with weights, got {shown(layer.add)}")
    if other.size != layer.size or other.rows != layer.rows:
        raise BadInput(f"{place}: add: {layer.add} has {other.size} neurons, not {layer.size} of {layer.rows} rows")
    if other.recurrent:
        raise BadInput(f"{place}: add: {layer.add} is recurrent: its current is not known before its spikes")
    if layer is config.layers[-1]:
        raise BadInput(f"{place}: add: the units of a readout's classes are its own")
    for one in (other, layer):
        if one.norm in CURRENT_NORMS:
            raise BadInput(f"{place}: add: layer {one.name}: norm: {one.norm} gives currents a unit of their own")
        if one.states != "float" and STATE_QUANTIZERS[one.state_quantizer] is not None:
            raise BadInput(f"{place}: add: layer {one.name}: {one.state_quantizer} states set the units of its rows")
    if other.scale != layer.scale:
        raise BadInput(f"{place}: add: scale: {layer.add} has one a {other.scale}, expected the same")


def placed(layers: list[Layer], where: str) -> tuple[Layer, ...]:
    """The layers with the shapes and sizes that follow from those before them. Raises BadInput where none do."""
    shapes: dict[str, tuple[int, ...]] = {}
    found: list[Layer] = []
    for i, layer in enumerate(layers):
        place = f"{where}: layer[{i}]"
        if layer.connection != "dense":
            source = (layer.inputs or (found[-1].name if found else "input",))[0]
            layer = _windowed(layer, shapes.get(source), place)
            window = layer.window
            shapes[layer.name] = (layer.size // (window.positions if window else 1), *(window.out if window else ()))
        elif not layer.size:
            raise BadInput(f"{place}: size: missing")
        found.append(layer)
    return tuple(found)


def _windowed(layer: Layer, known: tuple[int, ...] | None, place: str) -> Layer:
    """The layer with its window written out in two dimensions, and its size; `known`: the shape of what it sees."""
    shape = layer.shape if len(layer.shape) != 2 else (layer.shape[0], 1, layer.shape[1])
    if not shape and known is None:
        raise BadInput(f"{place}: shape: missing: [channels, length] or [channels, height, width] of its input")
    if shape and known and shape != known:
        raise BadInput(f"{place}: shape: what it sees has {list(known)}, got {shown(list(layer.shape))}")
    shape = shape or known or ()
    if len(shape) != 3 or min(shape) < 1 or max(shape) > 65_536:
        raise BadInput(
            f"{place}: shape: expected [channels, length] or [channels, height, width], got {shown(list(shape))}"
        )
    line = shape[1] == 1

    def pair(name: str, along: tuple[int, ...], across: int, least: int) -> tuple[int, ...]:
        given = getattr(layer, name) or along
        both = given if len(given) == 2 else (across, *given) if line else given * 2
        if len(both) != 2 or min(both) < least or max(both) > 65_535:
            raise BadInput(f"{place}: {name}: expected one or two integers from {least} up, got {shown(list(given))}")
        return both

    kernel = pair("kernel", (), 1, 1)
    stride = pair("stride", kernel if layer.connection == "pool" else (1,), 1, 1)
    window = Window(shape, kernel, stride, pair("padding", (0,), 0, 0))
    if not window.fits:
        raise BadInput(f"{place}: kernel: {list(kernel)} with that padding does not go with {list(shape)}")
    window.check_work(place)
    channels = layer.channels if layer.connection == "conv" else shape[0]
    if not channels or shape[0] % layer.groups or channels % layer.groups:
        raise BadInput(f"{place}: channels: expected a number that {layer.groups} groups share, got {channels}")
    size = channels * window.positions
    if layer.size not in (0, size) or size > 65_536:
        raise BadInput(f"{place}: size: is {size}, the channels by the places of its kernel; at most 65536")
    return replace(layer, size=size, shape=shape, kernel=kernel, stride=stride, padding=window.padding)

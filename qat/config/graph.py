"""Whether layers form a network: names, what each sees, what is added, the shapes and sizes that follow."""

from collections.abc import Callable
from typing import Any

from quantal.export.base import names
from quantal.export.base.errors import BadInput, shown
from quantal.export.base.reading import check_memory
from quantal.export.base.windows import Window
from quantal.export.ir.check import MOST_HELD
from quantal.qat.config.parts.fields import replace
from quantal.qat.config.parts.layers import CURRENT_NORMS, Conv, Dense, Layer, Pool, Windowed
from quantal.qat.config.parts.network import Config
from quantal.qat.config.problems import Problems

LEARNING = 16
"""Bytes a weight: its value, its gradient, and the two moments of Adam."""


# ---- shapes and sizes


def placed(config: Config, problems: Problems) -> Config | None:
    """The network with the windows of its layers written out; None with at least one problem."""
    shapes: dict[str, tuple[int, ...]] = {}
    found: list[Layer] = []
    for i, layer in enumerate(config.layers):
        if isinstance(layer, Conv | Pool):
            source = (layer.inputs or (found[-1].name if found else "input",))[0]
            written = _windowed(layer, shapes.get(source))
            if isinstance(written, tuple):
                field, words = written
                problems.add(("layer", i, field), words)
                return None
            layer = written
            shapes[layer.name] = (layer.size // layer.window.positions, *layer.window.out)
        found.append(layer)
    return replace(config, layers=tuple(found))


def _windowed(layer: Windowed, known: tuple[int, ...] | None) -> Windowed | tuple[str, str]:
    """The layer with its window in two dimensions, or (field, what is wrong); `known`: the shape of what it sees."""
    shape = layer.shape if len(layer.shape) != 2 else (layer.shape[0], 1, layer.shape[1])
    if not shape and known is None:
        return "shape", "missing: [channels, length] or [channels, height, width] of its input"
    if shape and known and shape != known:
        return "shape", f"what it sees has {list(known)}, got {shown(list(layer.shape))}"
    shape = shape or known or ()
    if len(shape) != 3:
        return "shape", f"expected [channels, length] or [channels, height, width], got {list(shape)}"

    def pair(given: tuple[int, ...], along: tuple[int, ...], across: int) -> tuple[int, ...]:
        both = given or along
        return both if len(both) == 2 else (across, *both) if shape[1] == 1 else both * 2

    kernel = pair(layer.kernel, (), 1)
    stride = pair(layer.stride, kernel if isinstance(layer, Pool) else (1,), 1)
    window = Window(shape, kernel, stride, pair(layer.padding, (0,), 0))
    if not window.fits:
        return "kernel", f"{list(kernel)} with that padding does not go with {list(shape)}"
    if heavy := complaint(window.check_work, ""):
        return "kernel", heavy.removeprefix("kernel: ")
    if isinstance(layer, Conv) and (shape[0] % layer.groups or layer.channels % layer.groups):
        return "groups", f"{layer.groups} do not divide {shape[0]} channels into {layer.channels}"
    written = replace(layer, shape=shape, kernel=kernel, stride=stride, padding=window.padding)
    if written.size > 65_536:
        return "kernel", f"makes {written.size:,} values, expected at most 65,536"
    return written


def complaint(check: Callable[..., Any], *arguments: Any) -> str:
    """What a check of the export says against its arguments, the place left out; "" where it says nothing."""
    try:
        check(*arguments)
    except BadInput as error:
        return str(error).removeprefix(": ")
    return ""


# ---- what sees what


def check_graph(config: Config, problems: Problems) -> None:
    """Notes each problem of layers that do not see earlier ones, or are not seen."""
    made, earlier = _made(config), {"input"}
    for i, (layer, sources) in enumerate(zip(config.layers, config.sources, strict=True)):
        path = ("layer", i)
        wrong = complaint(names.check_identifier, layer.name, "")
        wrong = wrong or complaint(names.check_layers, {layer.name: ""}, made)
        if layer.name in earlier:
            wrong = f"{shown(layer.name)} is taken"
        if wrong:
            problems.add((*path, "name"), wrong)
        if unknown := next((name for name in sources if name not in earlier), None):
            problems.add((*path, "inputs"), f"expected the input or earlier layers, got {shown(unknown)}")
        if len(set(sources)) != len(sources):
            problems.add((*path, "inputs"), "one of them stands there twice")
        if wrong := _late(layer, config.encoder.steps):
            problems.add((*path, "delays"), wrong)
        if layer.add and (wrong := _added(config, i)):
            problems.add((*path, "add"), wrong)
        earlier.add(layer.name)
    seen = {name for sources in config.sources for name in sources} | {layer.add for layer in config.layers}
    for i, layer in enumerate(config.layers[:-1]):
        if layer.name not in seen:
            problems.add(("layer", i, "name"), f"no layer sees {layer.name!r}")
    if isinstance(config.layers[-1], Pool):
        problems.add(
            ("layer", len(config.layers) - 1, "connection"), "expected a readout as the last layer, and a pool is none"
        )
    if not problems.found and (wrong := complaint(check_size, config, 1, "")):
        problems.add(("layer",), wrong)


def _late(layer: Layer, steps: int) -> str:
    delays = layer.delays
    if list(delays) != sorted(set(delays)):
        return f"expected ascending numbers of steps, got {shown(list(delays))}"
    if delays[-1] >= steps:
        return f"expected fewer than the {steps} steps of a sample, got {delays[-1]}: so late, it sees nothing"
    return ""


def _made(config: Config) -> dict[str, str]:
    """The layers that lowering makes beside those of the configuration: what is seen late, what is added."""
    made = {names.current(layer.add): f"the current of {layer.add}" for layer in config.layers if layer.add}
    for layer, sources in zip(config.layers, config.sources, strict=True):
        for source in sources:
            late = (delay for delay in layer.delays if delay)
            made |= {names.relay(source, delay): f"{source} {delay} steps late" for delay in late}
    return made


def _added(config: Config, index: int) -> str:
    """What is wrong with the current that a layer adds, whose unit it must be able to count in too."""
    layer = config.layers[index]
    other = next((one for one in config.layers[:index] if one.name == layer.add), None)
    if not isinstance(other, Dense | Conv) or not isinstance(layer, Dense | Conv):
        return f"expected an earlier layer with weights, got {shown(layer.add)}"
    if other.size != layer.size or other.rows != layer.rows:
        return f"{layer.add} has {other.size} neurons, not {layer.size} of {layer.rows} rows"
    if other.recurrent:
        return f"{layer.add} is recurrent: its current is not known before its spikes"
    if layer is config.layers[-1]:
        return "the units of a readout's classes are its own"
    for one in (other, layer):
        if one.norm in CURRENT_NORMS:
            return f"layer {one.name}: norm: {one.norm} gives currents a unit of their own"
        if one.states.tabled:
            return f"layer {one.name}: {one.states.quantizer} states set the units of its rows"
    if other.weights.scale != layer.weights.scale:
        return f"scale: {layer.add} has one a {other.weights.scale}, expected the same"
    return ""


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

"""What concerns two parts at once, as tables: which fields do not go together, and what is said of them.

A row has the field that is blamed, when it is broken, and what is said then, where {it} stands for what was looked at.
What concerns one field alone is its type's matter, and which fields there are is its struct's.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from quantal.export.base.errors import shown
from quantal.export.base.typed import Path
from quantal.qat.arithmetic.neurons import RESETTING
from quantal.qat.config.graph import check_graph
from quantal.qat.config.parts.fields import Part, tag
from quantal.qat.config.parts.layers import CURRENT_NORMS, Dense, Layer, Pool, Reservoir, Weighted
from quantal.qat.config.parts.network import Config
from quantal.qat.config.parts.neurons import Alpha, Count, Li, Lif, Step
from quantal.qat.config.parts.states import AT_ONCE, Uniform
from quantal.qat.config.parts.training import Ridge, SafE, SafF
from quantal.qat.config.problems import Enough, Problems


@dataclass(frozen=True)
class Rule:
    """The field that is blamed, with dots; whether it is broken; what is said, as words or by what was looked at."""

    field: str
    broken: Callable[[Any], Any]
    says: str | Callable[[Any], str]

    def line(self, it: Any) -> str:
        """What is said of what was looked at."""
        return self.says.format(it=it) if isinstance(self.says, str) else self.says(it)


# ---- of a layer


def traces(layer: Weighted) -> bool:
    """Whether it keeps a current or an adaptation beside its membrane."""
    return layer.neuron.synapse is not None or layer.neuron.adaptation is not None


def spans(layer: Weighted) -> bool:
    """Whether some state of the layer spans states.range."""
    kept = layer.states.quantized and (isinstance(layer.states, Uniform) or traces(layer))
    return kept or isinstance(layer.neuron, Li)


def _rounds_away(layer: Weighted) -> bool:
    at_once = layer.neuron.fires and layer.neuron.reset == "subtract" and layer.neuron.timing != "delayed"
    return at_once and isinstance(layer.states, Uniform) and layer.states.range >= 2**layer.states.membrane


def _decays(layer: Weighted) -> bool:
    return not isinstance(layer.neuron, Step) and (layer.neuron.decay < 1 or traces(layer))


def _remembers(layer: Weighted) -> bool:
    return layer.neuron.adaptation is not None or layer.neuron.refractory > 0


_FIRING = Lif | Count

LAYER = (
    # ---- a neuron's own
    Rule(
        "neuron.timing",
        lambda it: isinstance(it.neuron, _FIRING) and (it.neuron.reset, it.neuron.timing) not in RESETTING,
        lambda it: (
            f"a reset {it.neuron.reset} is {', '.join(when for kind, when in RESETTING if kind == it.neuron.reset)}, "
            f"got {it.neuron.timing!r}"
        ),
    ),
    Rule(
        "neuron.timing",
        lambda it: it.neuron.timing == "snntorch" and (_remembers(it) or it.neuron.spikes > 1),
        "snnTorch has no adaptation, no refractory steps and one spike at a time",
    ),
    Rule(
        "neuron.spikes",
        lambda it: it.neuron.spikes > 1 and _remembers(it),
        "adaptation and refractory steps go with one spike at a time, not {it.neuron.spikes}",
    ),
    Rule(
        "neuron.synapse_decay",
        lambda it: isinstance(it.neuron, Alpha) and it.neuron.synapse_decay <= it.neuron.decay,
        "alpha neurons have one above their decay, {it.neuron.decay}, got {it.neuron.synapse_decay}",
    ),
    Rule(
        "neuron.adaptation.spread",
        lambda it: it.neuron.adaptation and it.neuron.adaptation.spread != 1 and it.neuron.decay_per != "neuron",
        'has no effect without decay_per = "neuron"',
    ),
    Rule(
        "neuron.decay_per",
        lambda it: not it.neuron.stateless and it.neuron.decay_per == "neuron" and not _decays(it),
        "has no effect where nothing decays",
    ),
    # ---- neuron and states
    Rule(
        "states",
        lambda it: it.neuron.stateless and it.states != Uniform(),
        "{it.neuron.kind} neurons keep none",
    ),
    Rule(
        "states.quantizer",
        lambda it: isinstance(it.neuron, Alpha) and it.states.quantizer not in ("uniform", "float"),
        "alpha neurons have uniform states, got {it.states.quantizer}",
    ),
    Rule(
        "states.current",
        lambda it: it.states.current and it.neuron.synapse is None,
        "has no effect on a neuron without a synapse",
    ),
    Rule(
        "states.adaptation",
        lambda it: it.states.adaptation and it.neuron.adaptation is None,
        "has no effect on a neuron without an adaptation",
    ),
    Rule(
        "states.current",
        lambda it: it.states.membrane == 1 and it.neuron.synapse and not it.states.current,
        "a current takes 2 bits or more, expected how many beside 1 for the membrane",
    ),
    Rule(
        "states.adaptation",
        lambda it: it.states.membrane == 1 and it.neuron.adaptation and not it.states.adaptation,
        "an adaptation takes 2 bits or more, expected how many beside 1 for the membrane",
    ),
    Rule(
        "states.range",
        lambda it: it.states.range != 2 and not spans(it),
        "has no effect: {it.states.quantizer} states of a neuron that fires have none of that kind",
    ),
    Rule(
        "states.range",
        _rounds_away,
        "{it.states.range:g} thresholds in {it.states.membrane} bits are two or more a level: subtracting one at once "
        "is rounded away; try more bits",
    ),
    Rule(
        "neuron.timing",
        lambda it: it.states.membrane == 1 and it.resets_at_once and it.states.quantizer not in AT_ONCE,
        'one bit that is reset at once is the spike itself, expected "delayed"',
    ),
    Rule(
        "neuron.spikes",
        lambda it: it.states.tabled and it.neuron.spikes > 1,
        "{it.states.quantizer} states end below a second threshold",
    ),
    Rule(
        "neuron.threshold_per",
        lambda it: it.states.tabled and it.neuron.threshold_per != "auto",
        "{it.states.quantizer} states learn each row's scale instead",
    ),
    # ---- norm, weights, connection, and the others
    Rule(
        "norm",
        lambda it: it.norm in CURRENT_NORMS and it.states.tabled,
        "scales each neuron, but {it.states.quantizer} states have one table",
    ),
    Rule(
        "norm",
        lambda it: it.norm in CURRENT_NORMS and it.neuron.readout,
        "a readout's classes are compared, so its currents are not normalized",
    ),
    Rule(
        "weights.bits",
        lambda it: it.weights.learns_bits and (it.norm == "psp" or it.weights.standardize),
        "learned bits are settled by weights that no psp norm or standardize changes",
    ),
    Rule(
        "weights.bits",
        lambda it: isinstance(it, Reservoir) and it.weights.bits in (1, "learned"),
        "a reservoir's are 2 to 8, got {it.weights.bits}",
    ),
    Rule(
        "recurrent",
        lambda it: it.recurrent and (it.neuron.readout or it.neuron.stateless),
        "a {it.neuron.kind} neuron takes no recurrent weights",
    ),
)


# ---- of a layer in its network

Table = tuple[tuple[str, str, Callable[[Any], bool]], ...]
"""Of each field: what it must be, in words, and whether it is."""

CHAINED: Table = (
    ("connection", "dense or reservoir", lambda it: isinstance(it, Dense | Reservoir)),
    ("inputs", "the layer before", lambda it: not it.inputs),
    ("delays", "[0]", lambda it: it.delays == (0,)),
    ("add", "none", lambda it: not it.add),
    ("recurrent", "true or false", lambda it: it.recurrent != "diagonal"),
)
"""What makes a chain of dense layers."""

_ACCUMULATES: Table = (
    *CHAINED,
    ("neuron.kind", "lif or li", lambda it: isinstance(it.neuron, Lif | Li)),
    ("neuron.reset", "subtract", lambda it: isinstance(it.neuron, Li) or it.neuron.reset == "subtract"),
    ("neuron.timing", "delayed or immediate", lambda it: it.neuron.timing != "snntorch"),
    ("neuron.synapse", "none", lambda it: it.neuron.synapse is None),
    ("neuron.adaptation", "none", lambda it: it.neuron.adaptation is None),
    ("neuron.refractory", "0", lambda it: it.neuron.refractory == 0),
    ("neuron.spikes", "1", lambda it: it.neuron.spikes == 1),
    ("neuron.pool", "last", lambda it: it.neuron.pool == "last"),
    ("neuron.decay_per", "layer", lambda it: it.neuron.decay_per == "layer"),
    ("norm", "none", lambda it: it.norm == "none"),
    ("states.quantizer", "evenly spaced ones", lambda it: not it.states.tabled),
)
"""What a layer must be for SAF, whose membranes are sums over accumulated spikes."""

_FITTED: Table = (
    ("neuron.kind", "li", lambda it: isinstance(it.neuron, Li)),
    ("neuron.pool", "last", lambda it: it.neuron.pool == "last"),
    ("norm", "none", lambda it: it.norm == "none"),
    ("weights.standardize", "false", lambda it: not it.weights.standardize),
)
"""What a readout must be for a ridge regression."""


def misfit(layer: Layer, table: Table) -> tuple[str, str]:
    """(field, what was expected and is there) of the first that is not as it must be; empty where all are."""
    for field, takes, fits in table:
        if not fits(layer):
            value = attrgetter(field)(layer)
            return field, f"expected {takes}, got {_called(value)}"
    return "", ""


def _called(value: Any) -> str:
    return tag(type(value)) or type(value).__name__ if isinstance(value, Part) else shown(value)


def _because(found: tuple[str, str], why: str) -> tuple[str, str]:
    return found[0], f"{why}: {found[1]}"


def _of_layer(config: Config, index: int) -> list[tuple[str, str]]:
    """(field, what is wrong with it) of what a layer is in its network."""
    layer, method, last = config.layers[index], config.training.method, index == len(config.layers) - 1
    found: list[tuple[str, str]] = []
    if isinstance(config.training, Ridge) or any(isinstance(one, Reservoir) for one in config.layers):
        found.append(_because(misfit(layer, CHAINED), "reservoirs and ridge are for chains of dense layers"))
    if isinstance(config.training, SafE | SafF):
        found.append(_because(misfit(layer, _ACCUMULATES), f"is not what {method} trains"))
    if isinstance(config.training, Ridge) and last:
        found.append(_because(misfit(layer, _FITTED), "is not what ridge fits"))
    if isinstance(config.training, Ridge) and not last and not isinstance(layer, Reservoir):
        found.append(("connection", "ridge learns the readout alone, expected reservoir"))
    if isinstance(layer, Reservoir) and index and not isinstance(config.layers[index - 1], Reservoir):
        found.append(("connection", "what it sees may not change: only reservoirs stand before one"))
    if isinstance(layer, Pool):
        return found
    if layer.neuron.readout != last:
        found.append(("neuron", "expected a readout (li, count) as the last layer and only there"))
    if layer.weights.quantized != config.weighted[0].weights.quantized:
        found.append(("weights", "float weights are for comparison, in all layers or in none"))
    return found


# ---- of a network


def _some(config: Config, holds: Callable[[Any], Any]) -> bool:
    return any(map(holds, config.weighted))


def differentiable(layer: Weighted) -> bool:
    """Whether its weights or its states have differentiable quantizers."""
    return layer.weights.quantizer.startswith("dq") or (layer.states.quantizer == "dq" and not layer.neuron.stateless)


NETWORK = (
    Rule(
        "training.forward",
        lambda it: it.training.forward == "soft" and not _some(it, differentiable),
        "soft is for differentiable quantizers, and no layer has one",
    ),
    Rule(
        "training.loss",
        lambda it: it.training.loss == "regression" and not isinstance(it.readout.neuron, Li),
        "regression reads an li readout, not a {it.readout.neuron.kind}",
    ),
    Rule(
        "training.penalty",
        lambda it: it.training.penalty and len(it.layers) == 1,
        "is on spikes between layers, and there is one layer",
    ),
    Rule(
        "training.penalty",
        lambda it: it.training.penalty and any(isinstance(layer, Pool) for layer in it.layers),
        "is on spikes, and some layer sends their sums",
    ),
    Rule(
        "training.truncate",
        lambda it: it.training.truncate and _some(it, lambda layer: layer.norm != "none"),
        "a norm takes its moments of all steps, and gradients pass them",
    ),
    Rule(
        "training.budget",
        lambda it: bool(it.training.budget) != _some(it, lambda layer: layer.weights.learns_bits),
        'goes with weights = "learned" in some layer, and that with it',
    ),
)


def check(config: Config, problems: Problems) -> None:
    """Notes what keeps the layers from being a network, and what does not go together."""
    check_graph(config, problems)
    for i, layer in enumerate(config.layers):
        for field, words in _of_layer(config, i):
            if field:
                problems.add(("layer", i, *field.split(".")), words)
        if not isinstance(layer, Pool):
            _apply(LAYER, layer, ("layer", i), problems)
    if not problems.found:
        _apply(NETWORK, config, (), problems)


def _apply(rules: tuple[Rule, ...], it: Any, path: Path, problems: Problems) -> None:
    """Notes the rules that are broken; of those of one field the first."""
    blamed: set[str] = set()
    for rule in rules:
        if rule.field not in blamed and rule.broken(it):
            blamed.add(rule.field)
            problems.add((*path, *rule.field.split(".")), rule.line(it))


def refuse(config: Config, where: str) -> None:
    """Raises BadInput with the first problem of a configuration that was made, not read."""
    problems = Problems()
    with suppress(Enough):
        check(config, problems)
    problems.refuse(where)

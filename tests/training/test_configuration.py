"""Presets suit their tasks, and a configuration is read back as it was written."""

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantal.qat.arithmetic.neurons import NEURONS
from quantal.qat.cli.commands import PRESETS, preset
from quantal.qat.config import config_file, rules
from quantal.qat.config.schema import Config, Encoder, Layer, Task, Training
from quantal.qat.quantizers.normalization import NORMS
from quantal.qat.quantizers.states import STATE_QUANTIZERS
from quantal.qat.quantizers.weights import WEIGHT_QUANTIZERS
from support.neurons import neuron_options

# ---- the configuration


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_networks_for_their_task(name: str) -> None:
    config = preset(name)
    assert config.task.name == {"ecg": "qtdb"}.get(name, name)
    assert config_file.loads(config.dumps(), name) == config


def _field(field: Any) -> st.SearchStrategy[Any]:
    if "choices" in field.metadata:
        return st.sampled_from(field.metadata["choices"])
    if "range" in field.metadata:
        return (st.integers if field.type is int else st.floats)(*field.metadata["range"])
    return st.booleans()


def _table(kind: Any, **fixed: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Every field at random from what it takes, but for the fixed ones."""
    return st.builds(kind, **{f.name: _field(f) for f in fields(kind) if f.name not in fixed}, **fixed)


GRAPH_FIELDS = ("inputs", "add", "connection", "channels", "groups", "shape", "kernel", "stride", "padding")
"""What chains have none of: see test_graph.py."""


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Any valid configuration."""
    words = st.from_regex(r"l[a-z0-9]{0,4}(_[a-z0-9]{1,3}){1,2}", fullmatch=True)
    names = draw(st.lists(words, min_size=1, max_size=3, unique=True))
    exact, budget = draw(st.booleans()), 0
    encoder, layers = draw(_table(Encoder)), []
    for name in names:
        readout = name == names[-1]
        neuron = draw(st.sampled_from([kind for kind, row in NEURONS.items() if row.readout == readout]))
        weight_quantizer, (_, widths) = draw(st.sampled_from(list(WEIGHT_QUANTIZERS.items())))
        learns = () if weight_quantizer != "lsq" else ("learned",)
        weights = "float" if exact else draw(st.sampled_from((*widths, *learns)))
        budget = draw(_field(Training.__dataclass_fields__["budget"]).filter(bool)) if weights == "learned" else budget
        state_quantizers = list(STATE_QUANTIZERS) if neuron != "alpha" else ["uniform"]
        state_quantizer = draw(st.sampled_from(state_quantizers))
        table = STATE_QUANTIZERS[state_quantizer]
        states = draw(st.sampled_from(("float", *(range(1, 9) if table else range(2, 17)))))
        tabled = table is not None and states != "float"
        fixed: dict[str, Any] = {
            "name": name, "neuron": neuron, "weights": weights, "weight_quantizer": weight_quantizer,
            "states": states, "state_quantizer": state_quantizer,
        } | draw(neuron_options(neuron, state_quantizer, states))  # fmt: skip
        fixed |= {} if neuron == "li" else {"pool": "last"}
        plain = NEURONS[neuron].stateless
        tabled = tabled and not plain
        norms = ("none", "psp") if readout or tabled else NORMS
        fixed |= {"norm": draw(st.sampled_from([n for n in norms if n != "psp" or weights != "learned"]))}
        fixed |= {"threshold_per": "auto"} if tabled else {}
        fixed |= {"standardize": False} if weights == "learned" or weight_quantizer == "maqd" else {}
        memory = (*rules._MEMORY, "synapse_decay", "adaptation_decay")
        fixed |= {name: getattr(Layer, name) for name in memory} if plain else {}
        if states != "float" and not plain and (not tabled or state_quantizer == "dq"):
            fixed["state_gradient"] = "clip"
        late = st.integers(0, min(4096, encoder.steps - 1))
        delays = draw(st.lists(late, min_size=1, max_size=3, unique=True).map(sorted).map(tuple))
        if state_quantizer == "uniform" and states != "float":  # levels are less than two thresholds apart
            fixed["state_range"] = draw(st.floats(1, min(1024, 2 ** int(states) - 0.5)))
        recurrent = draw(st.booleans()) and not readout and not plain
        fixed |= {name: getattr(Layer, name) for name in GRAPH_FIELDS} | {"delays": delays, "recurrent": recurrent}
        fixed |= {"recurrence": draw(st.sampled_from(["full", "diagonal"])) if recurrent else "full"}
        fixed |= {"size": draw(st.integers(1, 4000)), "adaptation_spread": 1.0}  # learning more takes too much memory
        fixed |= {"reservoir": False, "density": 0.1, "inhibitory": 0.2, "rate": 0.05}  # see test_reservoir.py
        layers.append(draw(_table(Layer, **{key: st.just(value) for key, value in fixed.items()})))
    text = st.text(st.characters(exclude_categories=["Cs"]))
    option = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.booleans() | text
    options = st.dictionaries(text.filter(lambda key: key != "name"), option, max_size=3)
    hard = {} if any("dq" in rules.quantizers(layer) for layer in layers) else {"forward": st.just("hard")}
    alone = {"penalty": st.just(0.0)} if len(layers) == 1 else {}
    alone |= {"truncate": st.just(0)} if any(layer.norm != "none" for layer in layers) else {}
    alone |= {} if layers[-1].neuron == "li" else {"loss": st.sampled_from(["last", "steps"])}
    given = {"budget": st.just(budget), "method": st.just("bptt"), "ridge": st.just(0.0)}
    training = draw(_table(Training, **given, **hard, **alone))
    return Config(draw(_table(Task, options=options)), encoder, tuple(layers), training)


@settings(max_examples=100, deadline=None)
@given(configs())
def test_a_configuration_is_read_back_as_it_was_written(config: Config) -> None:
    rules.check(config, "config")
    assert config_file.loads(config.dumps(), "config") == config

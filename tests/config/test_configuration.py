"""Presets suit their tasks, and a configuration is read back as it was written."""

from contextlib import suppress
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from quantal.qat.config import config_file, rules
from quantal.qat.config.parts.fields import Part, default, kinds, known
from quantal.qat.config.parts.layers import Dense
from quantal.qat.config.parts.network import Config, Encoder, Task
from quantal.qat.config.parts.neurons import Alpha, Count, Li, Lif, Step
from quantal.qat.config.parts.training import Augmentation, Bptt
from quantal.qat.config.parts.weights import FloatWeights, Weights
from quantal.qat.config.preset import PRESETS, preset
from quantal.qat.config.problems import Enough, Problems


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_networks_for_their_task(name: str) -> None:
    config = preset(name)
    assert config.task.name == {"ecg": "qtdb"}.get(name, name)
    assert config_file.loads(config_file.dumps(config), name) == config


# ---- any configuration


def values(annotation: Any) -> st.SearchStrategy[Any]:
    """Whatever a field of this type takes."""
    if possible := kinds(annotation):
        none = [st.none()] if type(None) in get_args(bare(annotation)) else []
        return st.one_of(*none, *map(parts, possible))
    annotation, meta = bare(annotation), [one for one in get_args(annotation) if isinstance(one, msgspec.Meta)]
    if get_origin(annotation) in (UnionType, Union):
        return st.one_of(*(st.none() if one is type(None) else values(one) for one in get_args(annotation)))
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))
    if get_origin(annotation) is Annotated:
        kind, (limits,) = get_args(annotation)[0], meta
        if limits.le is None:
            return values(kind)
        least = limits.ge if limits.gt is None else limits.gt
        return (
            st.integers(least, limits.le)
            if kind is int
            else st.floats(least, limits.le, exclude_min=limits.gt is not None)
        )
    return {bool: st.booleans(), str: st.just("")}[annotation]


def bare(annotation: Any) -> Any:
    """The type without what is only said of it."""
    first = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return first if get_origin(first) in (Annotated, Literal, UnionType, Union) else annotation


def parts(kind: type[Part], **fixed: Any) -> st.SearchStrategy[Any]:
    """A table of that kind, with any fields but the fixed ones."""
    given = {field.name: values(field.type) for field in known(kind).values() if field.name not in fixed}
    return st.builds(kind, **given, **{name: st.just(value) for name, value in fixed.items()})


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Any valid chain of dense layers; what a rule refuses is as where nothing is said."""
    words = st.from_regex(r"l[a-z0-9]{0,4}(_[a-z0-9]{1,3}){1,2}", fullmatch=True)
    names = draw(st.lists(words, min_size=1, max_size=3, unique=True))
    late = st.lists(st.integers(0, 40), min_size=1, max_size=3, unique=True).map(sorted).map(tuple)
    weighted = [FloatWeights] if draw(st.booleans()) else [kind for kind in kinds(Weights) if kind != FloatWeights]
    layers = []
    for name in names:
        neurons = (Li, Count) if name == names[-1] else (Lif, Alpha, Step)
        fixed = {"name": name, "size": draw(st.integers(1, 4000)), "inputs": (), "add": "", "delays": draw(late)}
        fixed |= {"weights": draw(st.one_of(*map(parts, weighted))), "neuron": draw(st.one_of(*map(parts, neurons)))}
        layers.append(draw(parts(Dense, **fixed)))
    text = st.text(st.characters(exclude_categories=["Cs"]))
    option = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.booleans() | text
    options = draw(st.dictionaries(text.filter(lambda key: key != "name"), option, max_size=3))
    encoder = msgspec.structs.replace(draw(values(Encoder)), steps=draw(st.integers(41, 65_535)))
    learned = any(layer.weights.learns_bits for layer in layers)
    training = draw(parts(Bptt, budget=draw(st.integers(1, 2**31 - 1)) if learned else 0))
    config = Config(
        task=draw(parts(Task, options=options)), encoder=encoder, layers=tuple(layers), training=training,
        augmentation=draw(parts(Augmentation)),
    )  # fmt: skip
    for _ in range(60):
        if not (path := blamed(config)):
            return config
        config = without(config, path)
    assume(False)
    return config


def blamed(config: Config) -> tuple[str | int, ...]:
    """The place of the first problem, if there is one."""
    problems = Problems()
    with suppress(Enough):
        rules.check(config, problems)
    return problems.found[0].path if problems.found else ()


def without(value: Any, path: tuple[str | int, ...]) -> Any:
    """The value with its default at the path."""
    if isinstance(value, tuple):
        at = int(path[0])
        return (*value[:at], without(value[at], path[1:]), *value[at + 1 :])
    field = known(type(value))[str(path[0])]
    inner = getattr(value, field.name)
    whole = len(path) == 1 or (isinstance(inner, Part) and path[1] not in known(type(inner)))  # its kind is blamed
    changed = default(field) if whole else without(inner, path[1:])
    return msgspec.structs.replace(value, **{field.name: changed})


@settings(max_examples=100, deadline=None)
@given(configs())
def test_a_configuration_is_read_back_as_it_was_written(config: Config) -> None:
    rules.refuse(config, "config")
    assert config_file.loads(config_file.dumps(config), "config") == config

"""The structs of network files: read back they are the same, and whatever else is written is refused in one line."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from quantal.export.base.errors import BadInput
from quantal.export.encoders import ENCODERS
from quantal.qat.arithmetic.neurons import NEURONS
from quantal.qat.arithmetic.surrogates import SURROGATES
from quantal.qat.config import config_file, rules
from quantal.qat.config.json_schema import all_kinds, json_schema
from quantal.qat.config.lines import key_lines
from quantal.qat.config.moved import MOVED
from quantal.qat.config.parts import layers, network, neurons, states, training, weights
from quantal.qat.config.parts.fields import Part, help_of, kinds, known, tag
from quantal.qat.config.problems import MOST
from quantal.qat.config.reference import reference
from quantal.qat.data.registry import LOADERS
from quantal.qat.quantizers.normalization import CURRENT_NORMS, NORMS
from quantal.qat.quantizers.states import AFTER_RESET, STATE_QUANTIZERS
from quantal.qat.quantizers.weights import WEIGHT_QUANTIZERS

ROOT = Path(__file__).resolve().parents[2]

NETWORK = """[task]
name = "digits"

[encoder]
steps = 10

[[layer]]
name = "hidden"
size = 64
recurrent = true
weights = { bits = 3, gain = 2.0 }
neuron = { decay = 0.95, synapse = 0.7, adaptation = { amount = 0.5, decay = 0.99 } }
states = { membrane = 5, current = 9, adaptation = 12, range = 32 }

[[layer]]
name = "image"
connection = "conv"
shape = [1, 8, 8]
channels = 4
kernel = [3]
padding = [1]
norm = "psp"

[[layer]]
name = "sums"
connection = "pool"
kernel = [2]

[[layer]]
name = "readout"
size = 10
neuron = "li"
inputs = ["hidden", "sums"]
states.range = 16.0

[training]
epochs = 3
"""
START = NETWORK.replace('name = "image"\n', 'name = "image"\ninputs = ["input"]\n')


def complaints(old: str = "", new: str = "") -> list[str]:
    """What is said of the network with a change."""
    text = START.replace(old, new, 1)
    assert text != START or not old, f"{old} is not in the network"
    found = config_file.complaints(text, "net.toml")
    for line in found:
        assert len(line.splitlines()) == 1, line
        assert len(line) < 500, line
    if found:
        with pytest.raises(BadInput) as error:
            config_file.loads(text, "net.toml")
        assert str(error.value) == found[0]
    return found


def refused(old: str, new: str, *words: str) -> None:
    """Holds that the change is refused, in a line with these words."""
    line = complaints(old, new)[0]
    assert all(word in line for word in words), line


# ---- what the registries have


def named(union: object) -> set[str]:
    return {tag(kind) for kind in get_args(union)}


def test_the_kinds_of_parts_are_the_rows_of_the_registries() -> None:
    assert named(neurons.Neuron) == set(NEURONS)
    assert named(weights.Weights) == {*WEIGHT_QUANTIZERS, "float"}
    assert named(states.States) == {*STATE_QUANTIZERS, "float"}
    assert named(network.Encoder) == set(ENCODERS)
    fields = known(training.Bptt)
    assert {*get_args(get_args(fields["surrogate"].type)[0])} == set(SURROGATES)
    assert {*get_args(get_args(layers.Norm)[0])} == set(NORMS)
    assert {*get_args(get_args(known(network.Task)["name"].type)[0])} == set(LOADERS)
    assert (layers.CURRENT_NORMS, set(states.AT_ONCE)) == (CURRENT_NORMS, set(AFTER_RESET))


@pytest.mark.parametrize("kind", get_args(states.States), ids=tag)
def test_states_with_a_table_say_so(kind: type[states.States]) -> None:
    made = STATE_QUANTIZERS.get(tag(kind))
    assert kind().tabled == (made is not None)


@pytest.mark.parametrize("kind", get_args(weights.Weights), ids=tag)
def test_weights_come_in_the_bits_of_their_quantizer(kind: type[weights.Weights]) -> None:
    if tag(kind) == "float":
        return
    least, most = min(WEIGHT_QUANTIZERS[tag(kind)][1]), max(WEIGHT_QUANTIZERS[tag(kind)][1])
    if "bits" not in known(kind):
        assert least == most == kind.bits
        return
    for bits in range(10):
        text = START.replace("weights = { bits = 3,", f'weights = {{ quantizer = "{tag(kind)}", bits = {bits},', 1)
        assert bool(config_file.complaints(text, "net")) == (not least <= bits <= most), bits


def test_reading_a_network_file_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; from quantal.qat.config import config_file"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---- reading and writing


def test_a_network_reads_back_as_it_is() -> None:
    config = config_file.loads(START, "net.toml")
    text = config_file.dumps(config)
    assert config_file.loads(text, "again") == config
    assert config_file.dumps(config_file.loads(text, "again")) == text
    hidden, image, sums, readout = config.layers
    assert (hidden.neuron.synapse, hidden.states.current, hidden.weights.bits) == (neurons.Synapse(decay=0.7), 9, 3)
    assert (image.size, image.kernel, image.window.out) == (256, (3, 3), (8, 8))
    assert (sums.size, sums.stride, readout.neuron.kind, readout.states.range) == (64, (2, 2), "li", 16)


SHORT = [
    ('neuron = "li"', 'neuron = { kind = "li" }'),
    ("weights = 5", "weights = { bits = 5 }"),
    ('weights = "dq"', 'weights = { quantizer = "dq" }'),
    ('weights = "learned"', 'weights = { quantizer = "lsq", bits = "learned" }'),
    ("states = 5", "states = { membrane = 5 }"),
    ('states = "squat"', "[layer.states]\nquantizer = 'squat'"),
    ('neuron = { kind = "li", synapse = 0.5 }', 'neuron = { kind = "li", synapse = { decay = 0.5 } }'),
    ('neuron = { kind = "li", synapse = "exponential" }', 'neuron = { kind = "li", synapse = {} }'),
]


@pytest.mark.parametrize(("short", "long"), SHORT)
def test_a_word_or_a_number_stands_for_a_table(short: str, long: str) -> None:
    text = '[task]\nname = "digits"\n[[layer]]\nname = "o"\nsize = 3\n{}{}\n[training]\nbudget = {}\n'
    budget = 100 if "learned" in short else 0
    readout = "" if short.startswith("neuron =") else 'neuron.kind = "li"\n'
    one, other = (config_file.loads(text.format(readout, form, budget), "net") for form in (short, long))
    assert one == other


def test_presets_are_as_short_as_they_were() -> None:
    for path in sorted((ROOT / "qat/config/presets").glob("*.toml")):
        assert len(path.read_text("utf-8").splitlines()) <= 50, path.name


# ---- what is refused


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("recurrent = true", "recurent = true", ("net.toml:10: layer[0]: recurent: ", "did you mean recurrent?")),
        ("recurrent = true", 'recurrent = "diag"', ("recurrent: did you mean diagonal?", "'diag'")),
        ("size = 64\n", "", ("net.toml:7: layer[0]: size: missing",)),
        ("size = 64", "size = 0", ("net.toml:9: layer[0]: size: expected an integer in [1, 65536], got 0",)),
        ("size = 64", "size = 1e2", ("size: expected an integer",)),
        ("bits = 3", "bits = 9", ("net.toml:11: layer[0]: weights: bits: expected an integer in [1, 8] or learned",)),
        ("bits = 3", "bits = true", ("weights: bits",)),
        ("decay = 0.95", "decay = nan", ("net.toml:12: layer[0]: neuron: decay: expected a number in [0, 1]",)),
        ("amount = 0.5, ", "", ("net.toml:12: layer[0]: neuron: adaptation: amount: missing",)),
        ('neuron = "li"', 'neuron = "lii"', ("layer[3]: neuron: did you mean li?", "lif, alpha, step, li, count")),
        ('neuron = "li"', "neuron = 4", ("neuron: expected a table or one of lif",)),
        ('neuron = "li"', 'neuron = { kind = "li", reset = "zero" }', ("reset: not a field of li, only of lif",)),
        ('connection = "pool"', 'connection = "pool"\nneuron = "lif"', ("neuron: not a field of pool, only of dense",)),
        ("kernel = [3]", "kernel = [3, 0]", ("net.toml:21: layer[1]: kernel[1]: expected an integer in [1, 65535]",)),
        ("kernel = [3]", "kernel = [99]", ("net.toml:21: layer[1]: kernel: ", "does not go with")),
        ("shape = [1, 8, 8]", "", ("layer[1]: shape: missing",)),
        ("epochs = 3", 'method = "ridge"\nepochs = 0', ("training: epochs: not a field of ridge, only of bptt",)),
        ("[training]", "[trainning]", ("trainning: ", "did you mean training?")),
        ('name = "digits"', 'name = "digitz"', ("net.toml:2: task: name: did you mean digits?",)),
        ('name = "readout"', 'name = "hidden"', ("layer[3]: name: 'hidden' is taken",)),
        ('name = "readout"', 'name = "Readout"', ("layer[3]: name: expected a C identifier",)),
        ('"sums"]', '"sum"]', ("layer[3]: inputs: expected the input or earlier layers, got 'sum'",)),
        ('neuron = "li"', 'neuron = "count"\ndelays = [10]', ("delays: expected fewer than the 10 steps",)),
    ],
)
def test_what_is_wrong_is_said_with_line_table_and_nearest_name(old: str, new: str, words: tuple[str, ...]) -> None:
    refused(old, new, *words)


@pytest.mark.parametrize("key", MOVED)
def test_an_old_field_is_refused_with_its_new_form(key: str) -> None:
    value = {"reservoir": "true", "recurrence": '"diagonal"', "synapse": '"exponential"'}.get(key, "1")
    line = complaints("size = 64", f"size = 64\n{key} = {value}")[0]
    assert line.startswith(f"net.toml:10: layer[0]: {key}: stands elsewhere now: ")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("decay = 0.95", 'decay = 0.95, reset = "zero-before", timing = "immediate"', ("neuron: timing",)),
        ("decay = 0.95", 'decay = 0.95, timing = "snntorch"', ("timing: snnTorch has no adaptation",)),
        ("decay = 0.95", "decay = 0.95, spikes = 2", ("neuron: spikes",)),
        ("decay = 0.99", "decay = 0.99, spread = 2.0", ("spread: has no effect",)),
        ("synapse = 0.7, ", "", ("states: current: has no effect",)),
        ("membrane = 5, current = 9", 'quantizer = "squat", membrane = 1', ("current: a current takes 2 bits",)),
        ("padding = [1]", 'padding = [1]\nstates = { quantizer = "squat", range = 3 }', ("range: has no effect",)),
        ("padding = [1]", 'padding = [1]\nneuron = "step"\nstates = 7', ("states: step neurons keep none",)),
        ("padding = [1]", 'padding = [1]\nneuron = "li"', ("layer[1]: neuron: expected a readout",)),
        ("padding = [1]", 'padding = [1]\nweights = "float"', ("weights: float weights are for comparison",)),
        ('neuron = "li"', 'neuron = "li"\nrecurrent = true', ("recurrent: a li neuron",)),
        ('neuron = "li"', 'neuron = "li"\nnorm = "batch"', ("norm: a readout's classes",)),
        ("epochs = 3", "epochs = 3\nbudget = 9", ("training: budget",)),
        ('name = "digits"', 'name = "digits"\n"" = [1]', ("task: '': expected a number or a string",)),
        ("epochs = 3", 'epochs = 3\nforward = "soft"', ("training: forward: soft is for",)),
        ("epochs = 3", "epochs = 3\npenalty = 1.0", ("training: penalty",)),
        ("epochs = 3", "epochs = 3\ntruncate = 2", ("training: truncate",)),
        ("epochs = 3", 'method = "saf-e"', ("neuron: synapse: is not what saf-e trains",)),
        ("epochs = 3", 'method = "ridge"', ("connection: ",)),
    ],
)
def test_what_does_not_go_together_is_refused(old: str, new: str, words: tuple[str, ...]) -> None:
    refused(old, new, *words)


def test_a_regression_is_read_from_an_integrator() -> None:
    text = START.replace('neuron = "li"\n', 'neuron = "count"\n').replace("states.range = 16.0\n", "")
    assert (
        "regression reads an li readout, not a count" in config_file.complaints(f'{text}loss = "regression"', "net")[0]
    )


def test_all_problems_are_found_at_once_and_bounded() -> None:
    many = "".join(f"field{n} = {n}\n" for n in range(30_000))
    assert len(complaints("size = 64\n", f"size = 64\n{many}")) == MOST
    assert len(complaints("size = 64\nrecurrent = true", 'size = 0\nrecurrent = "x"\nfoo = 1')) == 3


def test_a_configuration_that_was_made_is_checked_without_lines() -> None:
    config = config_file.loads(START, "net.toml")
    with pytest.raises(BadInput, match=r"^--states: layer\[3\]: neuron: expected a readout"):
        rules.refuse(
            replace(config, layers=(*config.layers[:3], replace(config.layers[3], neuron=neurons.Lif()))), "--states"
        )


# ---- lines


LINES = """# a comment = 1
a = 1
"b c".d = 2  # = 3
[t]
x = [ # [
  {y = 1, z.w = 2},
  {y = "}] = ["},
]
text = '''
q = 1
'''
last = 1979-05-27 07:32:00
[[l]]
n = 1
[l.sub]
m = 1
[[l]]
[l.sub]
m = { k = 'a"', "\\u0061" = [[1, 2], [3]] }
[[l.deep]]
o = +1.5e3
[[l.deep]]
o = 2
"""


def test_every_key_has_its_line() -> None:
    found = key_lines(LINES)
    expected = {
        ("a",): 2, ("b c", "d"): 3, ("t", "x"): 5, ("t", "x", 0, "y"): 6, ("t", "x", 0, "z", "w"): 6,
        ("t", "x", 1, "y"): 7, ("t", "text"): 9, ("t", "last"): 12, ("l",): 13, ("l", 0): 13, ("l", 0, "n"): 14,
        ("l", 0, "sub", "m"): 16, ("l", 1): 17, ("l", 1, "sub", "m"): 19, ("l", 1, "sub", "m", "k"): 19,
        ("l", 1, "sub", "m", "a"): 19, ("l", 1, "deep", 0, "o"): 21, ("l", 1, "deep", 1, "o"): 23,
    }  # fmt: skip
    assert {path: found.get(path) for path in expected} == expected


def paths(value: object, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    """The path of every key in a document."""
    inner: set[tuple[str | int, ...]] = set()
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        inner |= ({(*path, key)} if isinstance(value, dict) else set()) | paths(entry, (*path, key))
    return inner


VALUES = st.recursive(
    st.integers() | st.text(max_size=6) | st.booleans() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)


@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=5))
@settings(max_examples=200, deadline=None)
def test_lines_are_found_for_every_key_of_any_document(document: dict[str, object]) -> None:
    import tomli_w

    text = tomli_w.dumps(document)
    assert paths(tomllib.loads(text)) <= set(key_lines(text))


# ---- what is made from the structs


def test_every_field_has_help_and_every_struct_says_what_it_is() -> None:
    for kind, _ in all_kinds():
        assert kind.__doc__, kind
        for name, field in known(kind).items():
            assert help_of(field.type) or name == "options", (kind, name)


def test_the_reference_has_every_table_and_field() -> None:
    page = reference()
    for kind, _ in all_kinds():
        for name in known(kind):
            assert f"| `{name}` |" in page or name in ("options", "layer") or kind is network.Config, (kind, name)


def test_the_page_and_the_schema_are_those_of_the_structs() -> None:
    assert reference() in (ROOT / "docs/reference/network_file.md").read_text("utf-8")
    assert (ROOT / "docs/reference/network.schema.json").read_text("utf-8") == json_schema()


def test_editors_take_what_the_reader_takes() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    import json

    schema = json.loads(json_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(tomllib.loads(START))
    validator.validate(tomllib.loads(config_file.dumps(config_file.loads(START, "net"))))
    for old, new in (("recurrent = true", "recurent = true"), ("bits = 3", "bits = 9"), ('"li"', '"lii"')):
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(tomllib.loads(START.replace(old, new, 1)))


def test_parts_know_their_kinds() -> None:
    assert kinds(layers.NeuronPart) == get_args(neurons.Neuron)
    assert issubclass(neurons.Lif, Part)

"""No two names in what is emitted are one, and none is another's: what could be so is refused before any training."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quantal.export import network_file
from quantal.export.base import names
from quantal.export.base.errors import BadInput
from quantal.export.base.toolchain import compile_host, host_cxx_compiler, invoke
from quantal.export.emit.c.program import emit_test
from quantal.export.emit.onnx.model import emit_onnx
from quantal.export.emit.python.simulator import emit_simulator
from quantal.export.ir.network import Layer, Network, StateVar
from quantal.export.ir.ops import Conv, Input, State
from quantal.export.proof.intervals import prove
from quantal.export.run import EXECUTORS
from quantal.qat.config import config_file
from quantal.qat.config.parts.network import Config
from quantal.qat.lower import lower
from quantal.qat.network.network import SpikingNetwork
from support.messages import one_line
from support.networks import write
from support.programs import header_of

LONG = "l" * 32
HEAD = '[task]\nname = "npz"\n[encoder]\nsteps = 4\n'


def configured(a: str, b: str, c: str) -> Config:
    """Three layers of these names before a readout: the first is seen late, by one that adds the second's current."""
    layers = (
        (a, "delays = [0, 2]"),
        (b, f'inputs = ["{a}"]\ndelays = [1]'),
        (c, f'inputs = ["{a}", "{b}"]\nadd = "{b}"\ndelays = [1, 3]'),
    )
    text = "".join(f'[[layer]]\nname = "{name}"\nsize = 3\nweights.gain = 4.0\n{more}\n' for name, more in layers)
    return config_file.loads(f'{HEAD}{text}[[layer]]\nname = "out"\nsize = 2\nneuron = "li"\n', "net.toml")


def lowered(config: Config, name: str) -> Network:
    return lower(SpikingNetwork(config, 2, 1), name).network


# ---- what is emitted, by its text


def repeated(found: Iterator[str]) -> list[str]:
    return [name for name, count in Counter(found).items() if count > 1]


def in_header(text: str) -> Iterator[str]:
    """What a header gives a name to, once each: "struct" before a field, whose names are the struct's alone."""
    plain = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    yield from re.findall(r"^#define (\w+)", plain, re.MULTILINE)
    yield from re.findall(r"^typedef \w+ (\w+)", plain, re.MULTILINE)
    yield from re.findall(r"^static const \w+ (\w+)\[", plain, re.MULTILINE)
    yield from re.findall(r"^(?:static )?(?!typedef)\w+ (\w+)\([^;]*?\)\n\{", plain, re.MULTILINE)
    (struct,) = re.findall(
        r"^typedef struct \{\n(    u?int.*?|    union.*?)^\} \w+_state;", plain, re.MULTILINE | re.DOTALL
    )
    outer, union = struct.split("    union {")
    yield from (f"struct {name}" for name in re.findall(r"(\w+)(?:\[\d+\])?;", outer))
    yield from (f"struct {name}" for name in re.findall(r"^    \} (\w+);", union, re.MULTILINE))
    yield from (f"union {name}" for name in re.findall(r"^        \} (\w+);", union, re.MULTILINE))


def in_simulator(text: str) -> Iterator[str]:
    yield from re.findall(r"^(?:def )?(\w+)(?: =|\()", text, re.MULTILINE)


def in_onnx(content: bytes) -> Iterator[str]:
    graph = onnx.load_from_string(content).graph
    yield from (value.name for value in (*graph.input, *graph.initializer))
    yield from (name for node in graph.node for name in node.output)


def check_emitted(network: Network) -> tuple[str, str]:
    """(header, test program), in all of which no name stands for two things, nor is one that C++ reserves."""
    x = np.zeros((1, 3, network.inputs), np.int64)
    proven = prove(network)
    header, simulator = header_of(network, x), emit_simulator(proven, "")
    assert repeated(in_header(header)) == []
    assert repeated(in_simulator(simulator)) == []
    assert repeated(in_onnx(emit_onnx(proven, ""))) == []
    made = {name.rpartition(" ")[2] for name in in_header(header)}
    assert {f"{network.name}_{verb}" for verb in ("reset", "step", "argmax", "classify")} <= made
    assert [name for name in made if "__" in name or name.startswith("_") or name.endswith("__")] == []
    assert [name for name in made if name in names._KEYWORDS] == []
    return header, emit_test(proven, "")


def compile_all(folder: Path, name: str, header: str, program: str) -> None:
    """As C and as C++, without a warning."""
    strict = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")
    (folder / f"{name}.h").write_text(header)
    for file in (f"{name}_test.c", f"{name}_test.cpp"):
        (folder / file).write_text(program)
    compile_host([folder / f"{name}_test.c"], folder / "c", flags=["-O0", *strict])
    invoke(
        [*host_cxx_compiler(), "-O0", "-std=c++20", *strict, str(folder / f"{name}_test.cpp"), "-o", str(folder / "p")]
    )


def check_refusal(line: str, where: str) -> None:
    """One line, not too long, that begins with a place."""
    assert re.fullmatch(f"{where}.{{1,250}}", line), line


# ---- of a configuration

PIECES = st.sampled_from(
    ["a", "b", "current", "delay1", "delay2", "line", "at", "value", "input", "u", "spike", "1", ""]
)
NAMES = st.sampled_from(
    ["con", "state", "out", "in", LONG, f"{LONG[1:]}2", "x_current", "int", "stdint", "scratch"]
) | (st.lists(PIECES, min_size=1, max_size=3).map("_".join))


@given(NAMES, NAMES, NAMES, NAMES)
@example("a", "b", "b_current", "net")
@example("a", "b", "a_delay1", "net")
@example("a", "b", "a_delay2", "net")
@example("a", "input_delay1", "c", "net")
@example("main", "b", "c", "main")
@example(LONG, "l" * 31, "l" * 30, LONG)
@example("a", "a_u", "a_line", "a_priv_1")
@example("a", "b", "c", "net_encoder")
@settings(max_examples=60, deadline=None)
def test_a_configuration_that_is_taken_can_be_exported(a: str, b: str, c: str, name: str) -> None:
    try:
        config = configured(a, b, c)
        names.check_network(name, "--name")
    except BadInput as error:
        check_refusal(str(error), r"(net\.toml:\d+: layer\[\d\]|--name): ")
        return
    network = lowered(config, name)
    assert network_file.loads(network_file.dumps(prove(network)), "network.json").network.name == name
    check_emitted(network)


@pytest.mark.parametrize(
    ("chosen", "name"), [((LONG, LONG[1:], LONG[2:]), LONG), (("a", "a_u", "state"), "in"), (("u", "u_u", "v1"), "v1")]
)
def test_what_is_exported_compiles_as_c_and_as_cpp(chosen: tuple[str, str, str], name: str, tmp_path: Path) -> None:
    compile_all(tmp_path, name, *check_emitted(lowered(configured(*chosen), name)))


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (
            ("a", "b", "b_current"),
            ("layer[2]: name", "'b_current' is taken", "the current of b", "choose another name"),
        ),
        (("a", "b", "a_delay1"), ("layer[2]: name", "'a_delay1' is taken", "a 1 steps late")),
        (("b_delay3", "b", "c"), ("layer[0]: name", "'b_delay3' is taken", "b 3 steps late")),
        (("a", "b_", "c"), ("layer[1]: name", "identifier", "'b_'")),
        (("a", "b__b", "c"), ("layer[1]: name", "identifier", "'b__b'")),
        (("_a", "b", "c"), ("layer[0]: name", "identifier", "'_a'")),
        (("a", "b", "co_await"), ("layer[2]: name", "no keyword", "'co_await'")),
    ],
)
def test_a_layer_may_not_be_called_what_is_made_beside_it(chosen: tuple[str, str, str], words: tuple[str, ...]) -> None:
    with pytest.raises(BadInput) as error:
        configured(*chosen)
    one_line(error, "net.toml", *words)


# ---- the network's own name


@pytest.mark.parametrize("name", ["stdint", "signal", "time", "math", "string", "stdckdint", "unistd", "features"])
def test_a_name_may_not_shadow_a_header_of_the_system(name: str) -> None:
    with pytest.raises(BadInput) as error:
        names.check_network(name, "--name")
    one_line(error, "--name", repr(name), f"{name}.h is a header of", "choose another name")


@pytest.mark.parametrize("name", ["con", "nul", "aux", "prn", "com1", "lpt9"])
def test_a_name_may_not_be_a_device_on_windows(name: str) -> None:
    with pytest.raises(BadInput) as error:
        names.check_network(name, "--name")
    one_line(error, "--name", repr(name), "device", "choose another name")


@pytest.mark.parametrize("name", ["net_encoder", "net_priv", "net_priv_1_hidden", "harness"])
def test_a_name_may_not_make_names_of_another_networks(name: str) -> None:
    with pytest.raises(BadInput) as error:
        names.check_network(name, "--name")
    one_line(error, "--name", repr(name), "choose another name")


@pytest.mark.parametrize("name", ["digits", "speech_commands", "stdint_net", "console", "encoder", "priv", "z" * 32])
def test_other_names_are_taken(name: str) -> None:
    assert names.check_network(name, "--name") == name


# ---- of a network.json


def delayed(name: str, *states: tuple[str, int]) -> Layer:
    """A layer that keeps its input in states, each as late as said."""
    kept = tuple(StateVar(state, 0, 0, 1, 0, delay=delay) for state, delay in states)
    ops = (Input("input"), *(State(state) for state, _ in states))
    return Layer(name, 2, {}, ops, kept, {}, len(states), "late")


IDENTIFIERS = st.sampled_from(
    [
        "line",
        "line_at",
        "at",
        "x",
        "x_line",
        "t",
        "wchar",
        "char16",
        "uint8",
        "co",
        "await",
        "static",
        "cast",
        "x_line_at",
    ]
)


@given(st.lists(st.tuples(IDENTIFIERS, st.lists(st.tuples(IDENTIFIERS, st.integers(1, 3)), min_size=1, max_size=3))))
@example([("x", [("line", 3), ("line_at", 1)])])
@example([("x", [("line", 3)]), ("x_line", [("at", 1)])])
@example([("wchar", [("t", 1)])])
@example([("co", [("await", 2)])])
@settings(max_examples=100, deadline=None)
def test_an_integer_network_that_is_taken_can_be_emitted(layers: list[tuple[str, list[tuple[str, int]]]]) -> None:
    network = Network("net", 2, 0, 1, {}, tuple(delayed(name, *states) for name, states in layers))
    try:
        text = network_file.dumps(prove(network))
    except BadInput as error:
        check_refusal(str(error), "network: ")
        return
    check_emitted(network_file.loads(text, "network.json").network)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ((delayed("x", ("line", 3), ("line_at", 1)),), ("x_line_at", "choose another name")),
        ((delayed("x", ("line", 3)), delayed("x_line", ("at", 1))), ("x_line_at", "choose another name")),
        ((delayed("wchar", ("t", 1)),), ("wchar_t", "C keeps")),
        ((delayed("dynamic", ("cast", 1)),), ("dynamic_cast", "C keeps")),
    ],
)
def test_fields_that_c_would_not_take_are_refused(layers: tuple[Layer, ...], words: tuple[str, ...]) -> None:
    with pytest.raises(BadInput) as error:
        network_file.dumps(prove(Network("net", 2, 0, 1, {}, layers)))
    one_line(error, *words)


def test_a_network_file_under_the_name_of_a_header_is_refused() -> None:
    text = network_file.dumps(prove(Network("net", 2, 0, 1, {}, (delayed("x", ("line", 3)),))))
    with pytest.raises(BadInput) as error:
        network_file.loads(text.replace('"net"', '"stdint"'), "network.json", trust_digest=True)
    one_line(error, "network.json: name", "'stdint'", "choose another name")


def test_kernels_may_have_the_name_of_what_they_see(tmp_path: Path) -> None:
    kernels = np.array([[1, -2], [3, 1]], np.int8)
    conv = Conv("taps", 0, (1, 1, 3), (1, 2), (1, 1), (0, 0), 1)
    layer = Layer("image", 4, {}, (Input("input"), conv), (), {"taps": kernels}, 1, "sum")
    network = Network("net", 3, 0, 5, {}, (layer,))
    check_emitted(network)
    build = write(network, tmp_path / "build", "net", np.arange(30).reshape(2, 5, 3) % 6)
    x, reference = build.vectors()
    with EXECUTORS["simulator"](build) as run:
        assert np.array_equal(run(x)["output"], reference["output"])

"""The header's text: ASCII, without dates or paths, with any valid names."""

import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quantal.export import network_file
from quantal.export.base.errors import BadInput
from quantal.export.base.toolchain import CORES, compile_host, compile_object, host_cxx_compiler, invoke
from quantal.export.build import Build, write_build
from quantal.export.ir import interpret
from quantal.export.ir.network import Layer, Network, StateVar
from quantal.export.ir.ops import Add, Clamp, Input, MatVec, Mul, State, Sub, Table
from support.headers import HEADERS, STRICT, implementation, output, self_test
from support.networks import input_for, write
from support.programs import header_of

# ---- the text


@pytest.mark.parametrize("name", HEADERS)
def test_header_is_ascii_and_includes_stdint_alone(name: str, headers: Callable[[str], Build]) -> None:
    text = headers(name).header.read_bytes().decode("ascii")
    assert re.findall(r"^\s*#\s*include\s*(.*)$", text, re.MULTILINE) == ["<stdint.h>"]
    code = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    assert re.findall(r"\b(?:float|double|long|u?int64_t|static (?!const)[^(]*;)", code) == []


@pytest.mark.parametrize("name", HEADERS)
def test_no_file_of_a_build_holds_a_date_or_a_path(name: str, headers: Callable[[str], Build]) -> None:
    folder = headers(name).path
    places = {str(folder.parent), str(Path.cwd()), str(Path.home()), tempfile.gettempdir(), sys.prefix}
    for file in folder.iterdir():
        content = file.read_bytes().decode("latin-1")
        assert [place for place in places if len(place) > 1 and place in content] == [], file.name
        if file.suffix in (".h", ".c", ".py", ".json"):
            assert re.findall(r"\b\d{4}-\d\d-\d\d\b|\b\d\d:\d\d\b", content) == [], file.name


@pytest.mark.parametrize("name", HEADERS)
def test_network_json_and_vectors_alone_give_every_file_again_byte_for_byte(
    name: str, headers: Callable[[str], Build], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = headers(name)
    monkeypatch.setenv("TZ", "Pacific/Apia")
    monkeypatch.chdir(tmp_path)
    write_build(tmp_path / "again", network_file.load(build.path / "network.json"), *build.vectors())
    files = {file.name: file.read_bytes() for file in build.path.iterdir()}
    assert len(files) == 7
    assert {file.name: file.read_bytes() for file in (tmp_path / "again").iterdir()} == files


# ---- names, and networks that nobody trains


def layer(name: str, source: str, width: int, size: int, weights: str) -> Layer:
    """A layer that uses one matrix twice, per-neuron and single tables, and has an op that nothing reads."""
    ops = (
        Input(source), MatVec(weights, 0), State("u"), Table(tuple(range(70_000, 70_000 + size))), Add(1, 2),
        Table((2,)), Mul(2, 5), Sub(4, 3), Clamp(7, -30_000, 100), State("v"), MatVec(weights + "v", 9),
        MatVec(weights + "v", 2), Add(10, 11), Clamp(12, -5, 900),
    )  # fmt: skip
    codes = np.arange(size * width).reshape(size, width) % 11 - 5
    back = np.arange(size * size).reshape(size, size) % 7 - 3
    states = StateVar("u", 0, -30_000, 100, 8), StateVar("v", 1, -5, 900, 13)
    return Layer(name, size, {"neuron": "odd"}, ops, states, {weights: codes, weights + "v": back}, 13, "o")


def chain(name: str, *layers: tuple[str, str]) -> Network:
    """Layers of those names, each with a matrix of that name, one after the other."""
    made, source, width = [], "input", 2
    for size, (called, weights) in enumerate(layers, 2):
        made.append(layer(called, source, width, size, weights))
        source, width = called, size
    return Network(name, 2, 0, 3, {}, tuple(made))


NAMED = {
    "one letter": chain("a", ("b", "c")),
    "as long as may be": chain("x" * 32, ("y" * 32, "z" * 31)),
    "headers of C": chain("headers", ("stdio", "limits")),
    "a type of C": chain("int8", ("int8_t", "int32_t")),
    "macros of old compilers": chain("unix", ("linux", "unix"), ("unix", "linux")),
    "the header's own": chain(
        "state", ("hash", "table"), ("scratch", "e"), ("none", "in"), ("out", "test"), ("i", "v")
    ),
    "its private ones": chain("hash32", ("hash32", "w"), ("test_input", "w"), ("test_hash", "w"), ("reset", "w")),
    "parts that join alike": chain("n", ("a", "b_c"), ("a_b", "c"), ("a_b_c", "b"), ("a_5", "table"), ("a_1", "b")),
    "the simulator's own": chain("run", ("in", "puts"), ("out", "puts"), ("initial", "w"), ("np", "product")),
}


@pytest.mark.parametrize("network", NAMED.values(), ids=NAMED)
def test_any_valid_names_compile_and_run_everywhere(network: Network, tmp_path: Path) -> None:
    x = input_for(network, 6, 7)
    build = write(network, tmp_path / "build", network.name, x)
    for standard in ("-std=c99", "-std=gnu99"):
        compile_host([build.test_program], tmp_path / "test", flags=[*STRICT, standard, f"-iquote{build.path}"])
        assert output(tmp_path / "test") == f"{network.name}: self test passed\n".encode()
    (tmp_path / "model.cpp").write_text(implementation(network.name))
    quote = f"-iquote{build.path}"
    compiled = str(tmp_path / "model.o")
    invoke([*host_cxx_compiler(), *STRICT, quote, "-c", str(tmp_path / "model.cpp"), "-o", compiled])
    assert self_test(build, "cortex-m0", tmp_path) == 0
    module: dict[str, object] = {"__name__": "simulator"}
    exec(build.simulator.read_text(encoding="utf-8"), module)
    run = module["run"]
    assert callable(run)
    for record, values in interpret.run(network, x).items():
        assert np.array_equal(run(x)[record], values), record


def test_the_name_of_the_test_programs_own_symbols_is_refused(tmp_path: Path) -> None:
    network = chain("harness", ("a", "b"))
    with pytest.raises(BadInput, match="harness"):
        write(network, tmp_path / "build", network.name, input_for(network, 6, 7))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("size", "codes"), [(2**16, 7), (2**16 - 3, 2)], ids=["bytes", "bits to a whole byte"])
def test_a_layer_of_all_the_neurons_that_may_be_ends_on_a_core(size: int, codes: int, tmp_path: Path) -> None:
    """2^16 neurons, or sums: an index of 16 bits would never get there, and clang says so."""
    matrix = np.resize(np.arange(codes), (size, 1)).astype(np.int8)
    ops = Input("input"), MatVec("w", 0, tuple(range(-3, codes - 3)))
    whole = Layer("all", size, {}, ops, (), {"w": matrix}, 1, "sum")
    network = Network("large", 1, 0, 1, {}, (whole,))
    x = np.ones((1, 1, 1), np.int64)
    (tmp_path / "large.h").write_text(header_of(network, x), encoding="utf-8")
    strict = '#pragma clang diagnostic error "-Wtautological-constant-out-of-range-compare"\n'
    (tmp_path / "model.c").write_text(strict + implementation("large"))
    compile_object(CORES["cortex-m0"], tmp_path / "model.c", tmp_path / "model.o", include=tmp_path)

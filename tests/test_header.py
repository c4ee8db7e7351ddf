"""The header keeps its contract: so say compilers, linkers and cores, and its self test names where it does not."""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from networks import (
    coded,
    header_of,
    input_for,
    lively,
    random_network,
    random_program,
    table_lif,
    whole_word,
    with_integer,
    write,
)
from quantal.export import network_file
from quantal.export.base.errors import BadInput
from quantal.export.base.fixed import Ints
from quantal.export.base.toolchain import (
    CORES,
    CompileError,
    compile_host,
    compile_object,
    host_compiler,
    host_cxx_compiler,
    invoke,
    section_sizes,
)
from quantal.export.build import Build, write_build
from quantal.export.emit.c.memory import input_word, record_dtype
from quantal.export.ir import interpret
from quantal.export.ir.network import Layer, Network, StateVar
from quantal.export.ir.ops import Add, Clamp, Input, MatVec, Mul, State, Sub, Table
from quantal.export.run.core import machine_for
from quantal.export.run.host import split_records

elffile = pytest.importorskip("elftools.elf.elffile")
pytest.importorskip("unicorn")
pytest.importorskip("ziglang")

HEADERS = ("spikes", "program", "word", "levels", "codes")
BOTH = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-Wundef")
STRICT = (*BOTH, "-Werror")
IN_C = (*STRICT, "-std=c99", "-Wstrict-prototypes", "-Wmissing-prototypes")
SANITIZE = ("-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# What C compilers call by themselves; nothing else is needed to link a header.
RUNTIME = re.compile(r"(__aeabi_)?mem(cpy|move|set|clr)[48]?")


@pytest.fixture(scope="session")
def headers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Build]:
    """Builds of that name, made once.

    Spikes in and counts out; 8-bit words and every op; the whole 32-bit word; states that are levels; packed weights.
    """

    @cache
    def build(name: str) -> Build:
        if name == "spikes":
            network, x = lively(lambda seed: random_network(seed, neuron="count"), range(1, 50))
        elif name == "program":
            network, x = lively(random_program, (seed for seed in range(3, 400, 8) if decides(random_program(seed))))
        elif name == "word":
            network, x = whole_word()
        elif name == "levels":
            network, x = lively(lambda seed: table_lif(8, seed=seed), range(50), steps=30)
        else:
            network, x = lively(packed, (seed for seed in range(50) if decides(packed(seed))))
        return write(network, tmp_path_factory.mktemp(name) / "build", name, x)

    return build


def packed(seed: int) -> Network:
    """Weights of every packing, on integers and on spikes."""
    return coded((1, 2, 4, 8), -5, 3, seed)


def decides(network: Network) -> bool:
    """Whether the network has several layers, and classes that depend on its input."""
    output = interpret.run(network, input_for(network, 9, 5))["output"]
    return len(network.layers) > 1 and len(np.unique(interpret.classify(output))) > 1


def program(folder: Path, build: Build, *flags: str, **sources: str) -> Path:
    """Compiles C sources, given as NAME="text", with the build's header beside them, into a program."""
    paths = [folder / f"{name}.c" for name in sources]
    for path, text in zip(paths, sources.values(), strict=True):
        path.write_text(text)
    compile_host(paths, folder / "program", flags=[*IN_C, f"-I{build.path}", *flags])
    return folder / "program"


def output(path: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    return subprocess.run([path, *arguments], input=stdin, capture_output=True, check=True).stdout


def implementation(name: str) -> str:
    return f'#define {name.upper()}_IMPLEMENTATION\n#define {name.upper()}_SELF_TEST\n#include "{name}.h"\n'


def numbers(values: Sequence[int] | Ints) -> str:
    return ", ".join(map(str, np.asarray(values).reshape(-1).tolist()))


def with_header(build: Build, folder: Path, text: str) -> Build:
    """A copy of the build whose header has this text."""
    copied = replace(build, path=shutil.copytree(build.path, folder))
    copied.header.write_text(text, encoding="utf-8")
    return copied


# ---- compilers


@pytest.mark.parametrize("level", ["-O0", "-O2", "-Os"])
@pytest.mark.parametrize("name", HEADERS)
def test_header_and_test_program_compile_clean_and_pass(
    name: str, level: str, headers: Callable[[str], Build], tmp_path: Path
) -> None:
    build = headers(name)
    compile_host([build.test_program], tmp_path / "test", flags=[*IN_C, level])
    assert output(tmp_path / "test") == f"{name}: self test passed\n".encode()


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", HEADERS)
def test_header_compiles_clean_for_a_core_and_needs_nothing_there(
    name: str, core: str, headers: Callable[[str], Build], tmp_path: Path
) -> None:
    strict = "".join(f'#pragma clang diagnostic error "{warning}"\n' for warning in BOTH)
    (tmp_path / "model.c").write_text(strict + implementation(name))
    compile_object(CORES[core], tmp_path / "model.c", tmp_path / "model.o", include=headers(name).path)
    with (tmp_path / "model.o").open("rb") as stream:
        symbols = list(elffile.ELFFile(stream).get_section_by_name(".symtab").iter_symbols())
    outside = {s.name: s["st_shndx"] for s in symbols if s["st_info"]["bind"] != "STB_LOCAL"}
    defined = {symbol for symbol, section in outside.items() if section != "SHN_UNDEF"}
    assert defined == {f"{name}_{verb}" for verb in ("reset", "step", "argmax", "classify", "self_test")}
    assert [symbol for symbol in set(outside) - defined if not RUNTIME.fullmatch(symbol)] == []
    sizes = section_sizes(tmp_path / "model.o")
    assert (sizes.data, sizes.bss) == (0, 0)


@pytest.mark.parametrize("standard", ["c++11", "c++17"])
@pytest.mark.parametrize("name", HEADERS)
def test_header_compiles_clean_as_cpp(
    name: str, standard: str, headers: Callable[[str], Build], tmp_path: Path
) -> None:
    build = headers(name)
    use = (
        f'#include "{name}.h"\nint main() {{ static {name}_state s; return static_cast<int>({name}_self_test(&s)); }}\n'
    )
    (tmp_path / "main.cpp").write_text(f"#define {name.upper()}_SELF_TEST\n{use}")
    (tmp_path / "model.cpp").write_text(implementation(name))
    sources = [str(tmp_path / "main.cpp"), str(tmp_path / "model.cpp")]
    command = [*host_cxx_compiler(), f"-std={standard}", *STRICT, f"-I{build.path}", *sources]
    invoke([*command, "-o", str(tmp_path / "program")])
    assert output(tmp_path / "program") == b""


@pytest.mark.parametrize("name", HEADERS)
def test_cpp_links_with_a_header_implemented_in_c(name: str, headers: Callable[[str], Build], tmp_path: Path) -> None:
    include = f"-I{headers(name).path}"
    (tmp_path / "model.c").write_text(implementation(name))
    use = f"int main() {{ static {name}_state s; return static_cast<int>({name}_self_test(&s)); }}\n"
    (tmp_path / "main.cpp").write_text(f'#define {name.upper()}_SELF_TEST\n#include "{name}.h"\n{use}')
    invoke([*host_compiler(), *IN_C, include, "-c", str(tmp_path / "model.c"), "-o", str(tmp_path / "model.o")])
    sources = [str(tmp_path / "main.cpp"), str(tmp_path / "model.o")]
    invoke([*host_cxx_compiler(), *STRICT, include, *sources, "-o", str(tmp_path / "program")])
    assert output(tmp_path / "program") == b""


@pytest.mark.parametrize("name", HEADERS)
def test_header_may_be_included_again_and_again(name: str, headers: Callable[[str], Build], tmp_path: Path) -> None:
    once, again = f'#include "{name}.h"\n', f"#define {name.upper()}_IMPLEMENTATION\n"
    use = f"int main(void) {{ static {name}_state s; other(&s); return (int){name}_self_test(&s); }}\n"
    top = f"#define {name.upper()}_SELF_TEST\n"
    declared = f"void other({name}_state *s);\n"
    path = program(
        tmp_path,
        headers(name),
        main=top + once + once + again + once + once + declared + use,
        other=once + once + declared + f"void other({name}_state *s) {{ {name}_reset(s); }}\n",
    )
    assert output(path) == b""


@pytest.fixture(scope="session")
def sanitizers(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The flags, where this machine's compiler can link with them."""
    folder = tmp_path_factory.mktemp("sanitizers")
    (folder / "empty.c").write_text("int main(void) { return 0; }\n")
    try:
        compile_host([folder / "empty.c"], folder / "empty", flags=SANITIZE)
    except CompileError as error:
        pytest.skip(f"no sanitizers here: {error}")
    return SANITIZE


@pytest.mark.parametrize("name", HEADERS)
def test_all_vectors_pass_under_the_sanitizers(
    name: str, headers: Callable[[str], Build], sanitizers: tuple[str, ...], tmp_path: Path
) -> None:
    build = headers(name)
    x, reference = build.vectors()
    compile_host([build.test_program], tmp_path / "test", flags=sanitizers)
    content = output(tmp_path / "test", str(x.shape[1]), stdin=x.astype(input_word(build.network).dtype).tobytes())
    got = split_records(content, record_dtype(build.proven), *x.shape[:2])
    for record, values in reference.items():
        assert np.array_equal(got[record], values), record


def test_the_test_program_refuses_a_stream_of_no_steps(headers: Callable[[str], Build], tmp_path: Path) -> None:
    compile_host([headers("spikes").test_program], tmp_path / "test")
    for steps in ("0", "-1", "x"):
        assert subprocess.run([tmp_path / "test", steps], capture_output=True, timeout=10).returncode == 2


# ---- use


TWO = """
#include <stdio.h>
{first}{second}
int main(void)
{{
    static const {a}_input xa[] = {{ {xa} }};
    static const {b}_input xb[] = {{ {xb} }};
    static {a}_state sa, ta;
    static {b}_state sb;
    static int32_t out_a[{A}_OUTPUTS], out_ta[{A}_OUTPUTS], out_b[{B}_OUTPUTS];
    uint32_t t, i;
    {a}_reset(&sa);
    {a}_reset(&ta);
    {b}_reset(&sb);
    for (t = 0; t < {steps}; ++t) {{
        {a}_step(&sa, xa + t * {A}_INPUTS, out_a);
        {b}_step(&sb, xb + t * {B}_INPUTS, out_b);
        {a}_step(&ta, xa + ({steps} + t) * {A}_INPUTS, out_ta);
    }}
    for (i = 0; i < {A}_OUTPUTS; ++i) {{ printf("%ld ", (long)out_a[i]); }}
    for (i = 0; i < {A}_OUTPUTS; ++i) {{ printf("%ld ", (long)out_ta[i]); }}
    for (i = 0; i < {B}_OUTPUTS; ++i) {{ printf("%ld ", (long)out_b[i]); }}
    return (int)({a}_self_test(&sa) + {b}_self_test(&sb));
}}
"""


@pytest.mark.parametrize("apart", [False, True], ids=["in one source", "in two sources"])
def test_two_models_and_two_streams_of_one_run_side_by_side(
    apart: bool, headers: Callable[[str], Build], tmp_path: Path
) -> None:
    a, b = headers("spikes"), headers("program")
    (xa, ta), (xb, tb) = a.vectors(), b.vectors()
    names = {"a": "spikes", "b": "program", "A": "SPIKES", "B": "PROGRAM", "steps": xa.shape[1]}
    assert xa.shape[1] == xb.shape[1]
    use = '#define {0}_SELF_TEST\n#include "{1}.h"\n'
    first, second = (use.format(n.upper(), n) if apart else implementation(n) for n in ("spikes", "program"))
    text = TWO.format(**names, first=first, second=second, xa=numbers(xa[6:8]), xb=numbers(xb[6]))
    sources = {"main": text}
    if apart:
        sources |= {"one": implementation("spikes"), "other": implementation("program")}
    path = program(tmp_path, a, f"-I{b.path}", **sources)
    expected = [*ta["output"][6, -1], *ta["output"][7, -1], *tb["output"][6, -1]]
    assert output(path).decode().split() == [str(value) for value in expected]


CLASSIFY = """
#include <stdio.h>
int main(void)
{{
    static {name}_input x[{steps} * {NAME}_INPUTS];
    static {name}_state state;
    while (fread(x, sizeof x, 1, stdin) == 1) {{
        printf("%lu ", (unsigned long){name}_classify(&state, x, {steps}));
    }}
    return 0;
}}
"""


@pytest.mark.parametrize("name", HEADERS)
def test_classify_is_the_interpreters_decision(name: str, headers: Callable[[str], Build], tmp_path: Path) -> None:
    network = headers(name).network
    x = input_for(network, 60, 5)
    expected = interpret.classify(interpret.run(network, x)["output"])
    assert len(set(expected.tolist())) > 1
    text = implementation(name) + CLASSIFY.format(name=name, NAME=name.upper(), steps=5)
    path = program(tmp_path, headers(name), main=text)
    stdin = x.astype(input_word(network).dtype).tobytes()
    assert output(path, stdin=stdin).decode().split() == [str(k) for k in expected]


def test_ties_go_to_the_lowest_index(headers: Callable[[str], Build], tmp_path: Path) -> None:
    outputs = np.stack(np.meshgrid(*[[-(2**31), -1, 0, 2**31 - 1]] * 4), axis=-1).reshape(-1, 4)
    assert headers("spikes").network.outputs == 4
    text = f"""{implementation("spikes")}
#include <stdio.h>
int main(void)
{{
    static const int32_t outputs[][4] = {{ {numbers(outputs)} }};
    uint32_t i;
    for (i = 0; i < {len(outputs)}; ++i) {{ printf("%lu ", (unsigned long)spikes_argmax(outputs[i])); }}
    return 0;
}}
"""
    path = program(tmp_path, headers("spikes"), "-Wno-missing-braces", main=text)
    expected = interpret.classify(outputs[:, None])
    assert output(path).decode().split() == [str(k) for k in expected] == [str(list(o).index(max(o))) for o in outputs]


# ---- the self test


def self_test(build: Build, target: str, folder: Path) -> int:
    """What the self test returns on the host or on an emulated core."""
    if target != "host":
        with machine_for(build, CORES[target]) as machine:
            return machine.call("harness_self_test")
    name = build.network.name
    use = f'{{ static {name}_state s; printf("%lu", (unsigned long){name}_self_test(&s)); return 0; }}\n'
    text = f"{implementation(name)}#include <stdio.h>\nint main(void) {use}"
    return int(output(program(folder, build, main=text)))


TARGETS = ("host", *CORES)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["spikes", "program"])
def test_self_test_passes(name: str, target: str, headers: Callable[[str], Build], tmp_path: Path) -> None:
    assert self_test(headers(name), target, tmp_path) == 0


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("step", [0, 4, 8])
def test_self_test_names_the_step_of_a_changed_hash(
    step: int, target: str, headers: Callable[[str], Build], tmp_path: Path
) -> None:
    build = headers("spikes")
    text = build.header.read_text(encoding="utf-8")
    changed = with_integer(text, r"_test_hash\[9\] = \{", step, lambda value: value ^ 1)
    assert self_test(with_header(build, tmp_path / "changed", changed), target, tmp_path) == step + 1


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("layer", [0, 1])
def test_self_test_names_the_first_step_that_a_changed_weight_reaches(
    layer: int, target: str, headers: Callable[[str], Build], tmp_path: Path
) -> None:
    build = headers("program")
    x, reference = build.vectors()
    layers = list(build.network.layers)
    assert len(layers) > layer
    weights = layers[layer].weights
    changed = weights["fed_back"].copy()
    changed[0, 0] ^= 64
    layers[layer] = replace(layers[layer], weights={**weights, "fed_back": changed})
    trace = interpret.run(replace(build.network, layers=tuple(layers)), x[:1])
    differs = np.any([np.any(trace[n] != reference[n][:1], axis=(0, 2)) for n in trace], axis=0)
    assert differs.any()
    pattern = rf"_{layers[layer].name}_fed_back\[\d+\]\[\d+\] = \{{"
    text = with_integer(build.header.read_text(encoding="utf-8"), pattern, 0, lambda _: int(changed[0, 0]))
    assert self_test(with_header(build, tmp_path / "changed", text), target, tmp_path) == differs.argmax() + 1


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

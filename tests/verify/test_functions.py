"""`verify` calls every function that a program may call: an operator changed in any of them, and it fails."""

import re
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from quantal.export.base import names
from quantal.export.base.toolchain import compile_host
from quantal.export.build import Build
from quantal.export.run import host
from quantal.export.run.verify import batched, verify
from quantal.qat.config import config_file
from quantal.qat.data.encoding import encode
from quantal.qat.network.network import SpikingNetwork
from support.commands import quantal
from support.layers import replace
from support.networks import lively, write
from support.torch_networks import three_layers
from support.verifying import rows_of, sign

pytest.importorskip("unicorn")
pytest.importorskip("ziglang")

STEPS, CHANNELS, MAXIMUM = 7, 5, 255
ENCODED = """
task.name = "npz"
encoder = {{ kind = "{kind}", steps = {steps}{more} }}
[[layer]]
name = "readout"
size = 3
delays = [0, 3]
neuron = "li"
"""
SAID = {"latency": "", "rate": ", seed = 3", "delta": ", delta = 40"}
HEADERS = {  # of a header with those functions, the functions
    "plain": ("reset", "step", "argmax", "classify", "self_test"),
    "latency": ("encode",),
    "rate": ("encode",),
    "delta": ("encode", "encoder_reset"),
}
FLIPS = {
    "<": "<=", ">": ">=", "<=": "<", ">=": ">", "==": "!=", "!=": "==", "+": "-", "-": "+", "*": "+", "/": "*",
    "%": "/", "&&": "||",
}  # fmt: skip
SAME = {  # of a function, flips that no call tells from what was
    ("reset", "i < "): "writes one value of the array behind it, which is reset after it, or is scratch",
    ("self_test", "i < MODEL_INPUTS"): "writes one value behind its own array",
}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Build]:
    """Builds, made once."""

    @cache
    def build(kind: str, maximum: int = MAXIMUM) -> Build:
        folder = tmp_path_factory.mktemp(kind) / "build"
        if kind == "plain":
            network, x = lively(lambda seed: three_layers(seed, neuron="count"), range(1, 50))
            return write(network, folder, "model", x[::-1].copy())  # whose first sample is drawn
        text = ENCODED.format(kind=kind, steps=STEPS, more=SAID[kind])
        network = SpikingNetwork(config_file.loads(text, "test"), CHANNELS, maximum)
        shape = (4, CHANNELS) if kind == "latency" else (4, STEPS, CHANNELS)
        values = np.random.default_rng(0).integers(0, maximum, shape, endpoint=True)
        return write(network, folder, "model", encode(kind, values, steps=STEPS, maximum=maximum, seed=3, delta=40))

    return build


def public(header: str, name: str = "model") -> list[str]:
    """The functions that a header declares, after the network's name and an underscore."""
    declared = header[: header.index(f"#endif /* {name.upper()}_H */")]
    return re.findall(rf"^[a-z]\w* {name}_(\w+)\([^;]*\);", declared, re.MULTILINE)


def body(header: str, function: str) -> tuple[int, int]:
    """Where the function's lines are."""
    found = re.search(
        rf"^(?:static )?\w+ model_{function}\([^;{{]*\)\n\{{\n(.*?)^\}}", header, re.MULTILINE | re.DOTALL
    )
    assert found is not None
    return found.span(1)


def flips(header: str, function: str) -> Iterator[tuple[str, str]]:
    """Operators of the function changed, the first of each, and statements left out: (the place, the header's text)."""
    start, end = body(header, function)
    changed = set()
    for operator in re.finditer(r"(?<= )(<|>|<=|>=|==|!=|\+|-|\*|/|%|&&)(?= )", header[start:end]):
        at = start + operator.start()
        place = header[header.rindex("\n", 0, at) + 1 : header.index("\n", at)].strip()
        same = any(function == where and words in place for where, words in SAME)
        if not same and operator[1] not in changed:
            changed.add(operator[1])
            yield place, header[:at] + FLIPS[operator[1]] + header[at + len(operator[1]) :]
    for statement in re.finditer(r"^ +(?:state->|model_priv_).*;$", header[start:end], re.MULTILINE):
        yield statement[0], header[: start + statement.start()] + header[start + statement.end() :]


def failed(build: Build, executor: str, header: str) -> bool:
    """Whether `verify` on that executor sees it."""
    build.header.write_text(header, encoding="utf-8")
    x, trace = build.vectors()
    comparison, error = verify(build, executor, batched(x, trace, len(x)), lambda _: None)
    return error is not None or not comparison.good


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """c-host compiles without optimization."""

    def compile_quickly(sources: list[Path], out: Path, *, flags: list[str], seconds: int | None) -> None:
        compile_host(sources, out, flags=["-O0"])

    monkeypatch.setattr(host, "compile_host", compile_quickly)


CASES = [(kind, function) for kind, functions in HEADERS.items() for function in functions]


@pytest.mark.parametrize("kind", HEADERS)
def test_every_function_of_a_header_is_one_whose_faults_are_looked_for(kind: str, made: Callable[..., Build]) -> None:
    assert sorted(public(made(kind).header.read_text())) == sorted({*HEADERS["plain"], *HEADERS[kind]})
    assert {function for _, function in CASES} == set(names.FUNCTIONS)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("kind", "function"), CASES)
def test_a_changed_operator_in_any_function_fails(
    kind: str, function: str, made: Callable[..., Build], tmp_path: Path
) -> None:
    build = replace(made(kind), path=shutil.copytree(made(kind).path, tmp_path / "build"))
    good = build.header.read_text(encoding="utf-8")
    assert not failed(build, "c-host", good)
    changed = list(flips(good, function))
    assert changed
    assert [place for place, text in changed if not failed(build, "c-host", text)] == []


EQUAL = {  # ends of the places of changes that mean the same
    "; ++i) { [< -> !=]": "it counts up one by one",
    "values[i] > 0 && step == late ? 1 : 0; [> -> !=]": "values have no sign",
    "return n ^ (n >> 16); [16 -> 17]": "the upper half, which alone is taken, stays as it is",
    "return n ^ (n >> 16); [^ -> |]": "so it does",
}
EQUAL_AT = {  # of a maximum
    16: "return n ^ (n >> 16); [16 -> 15]",  # it changes the lowest bit, and all borders are even
    40: "+ 40; [>= -> ==]",  # nothing is further away
}
ALIKE = ({"<", "<=", ">", ">=", "==", "!="}, {"+", "-", "*", "/"}, {">>", "<<"}, {"^", "|", "&"}, {"&&", "||"})
WORD = re.compile(
    r"(?<= )(?P<operator><<|>>|<=|>=|==|!=|&&|[-+*/<>^])(?= )|(?<![\w.])(?P<number>0x[0-9A-F]+|\d+)(?=u?\b)"
)


def changes(header: str, functions: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Every operator of these functions turned into every other, and every number one more and one less."""
    for function in functions:
        start, end = body(header, function)
        for word in WORD.finditer(header, start, end):
            if word["operator"]:
                others = [str(other) for kind in ALIKE if word[0] in kind for other in sorted(kind - {word[0]})]
            else:
                others = [str(int(word[0], 0) + by) for by in (-1, 1)]
            line = header[header.rindex("\n", 0, word.start()) + 1 : header.index("\n", word.end())].strip()
            for other in others:
                text = header[: word.start()] + other + header[word.end() :]
                yield f"{function}: {line} [{word[0]} -> {other}]", text


def hash_of(header: str) -> tuple[str, ...]:
    return ("priv_hash32",) if "model_priv_hash32" in header else ()


@pytest.mark.thorough
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("kind", "maximum"),
    [("latency", 16), ("latency", 255), ("rate", 16), ("rate", 255), ("delta", 40), ("delta", 255)],
)
def test_every_change_of_an_encoder_fails(kind: str, maximum: int, made: Callable[..., Build], tmp_path: Path) -> None:
    build = replace(made(kind, maximum), path=shutil.copytree(made(kind, maximum).path, tmp_path / "build"))
    good = build.header.read_text(encoding="utf-8")
    assert not failed(build, "c-host", good)
    changed = changes(good, (*HEADERS[kind], *hash_of(good)))
    unseen = [place for place, text in changed if not failed(build, "c-host", text)]
    assert [place for place in unseen if not place.endswith((*EQUAL, EQUAL_AT.get(maximum, "[]")))] == []


@pytest.mark.usefixtures("quick")
def test_the_greatest_value_is_asked_at_the_greatest_random_number(made: Callable[..., Build], tmp_path: Path) -> None:
    build = replace(made("rate", 16), path=shutil.copytree(made("rate", 16).path, tmp_path / "build"))
    good = build.header.read_text(encoding="utf-8")
    for factor in ("65535", "65537"):
        assert failed(build, "c-host", good.replace("* 65536 ?", f"* {factor} ?"))


FAULTS = {  # one of each function, of which a core must tell too
    "reset": ("] = 0;", "] = 1;"),
    "step": ("(state, in", "(state, in + 1"),
    "argmax": ("out[i] > out[best]", "out[i] >= out[best]"),
    "classify": ("model_reset(state);", ""),
    "self_test": ("hash != ", "hash == "),
    "encode": ("? 1 : 0", "? 0 : 1"),
    "encoder_reset": ("= 0;\n    }", "= 1;\n    }"),
}


@pytest.mark.parametrize(("kind", "function"), CASES)
def test_a_fault_of_any_function_is_seen_on_a_core(
    kind: str, function: str, made: Callable[..., Build], tmp_path: Path
) -> None:
    build = replace(made(kind), path=shutil.copytree(made(kind).path, tmp_path / "build"))
    good = build.header.read_text(encoding="utf-8")
    start, end = body(good, function)
    old, new = FAULTS[function]
    assert old in good[start:end]
    assert failed(build, "cortex-m0", good[:start] + good[start:end].replace(old, new, 1) + good[end:])


@pytest.mark.parametrize("kind", HEADERS)
def test_all_functions_agree_on_every_core(kind: str, made: Callable[..., Build]) -> None:
    build = made(kind)
    for core in ("cortex-m0", "cortex-m4", "riscv32"):
        assert not failed(build, core, build.header.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("output[:, -1].argmax(axis=1)", "output[:, 0].argmax(axis=1)"),
        ("output[:, -1].argmax(axis=1)", "output.shape[2] - 1 - output[:, -1, ::-1].argmax(axis=1)"),
        ("np.full((samples, size), value, np.int32)", "np.full((samples, size), value + 1, np.int32)"),
        ("    return after\n", '    return after | {"output": 1 - after["output"]} if len(x) < 5 else after\n'),
    ],
)
def test_a_fault_of_the_simulators_functions_is_seen(
    old: str, new: str, made: Callable[..., Build], tmp_path: Path
) -> None:
    build = replace(made("plain"), path=shutil.copytree(made("plain").path, tmp_path / "build"))
    text = build.simulator.read_text(encoding="utf-8")
    assert old in text
    build.simulator.write_text(text.replace(old, new, 1), encoding="utf-8")
    sign(build.path)
    done = quantal("verify", build.path, "--on", "simulator", "--json")
    (row,) = rows_of(done)
    assert (done.code, row["mismatches"] > 0) == (1, True)


def test_a_decision_for_the_last_of_equal_outputs_is_named(made: Callable[..., Build], tmp_path: Path) -> None:
    build = replace(made("plain"), path=shutil.copytree(made("plain").path, tmp_path / "build"))
    text = build.header.read_text(encoding="utf-8").replace("out[i] > out[best]", "out[i] >= out[best]")
    build.header.write_text(text, encoding="utf-8")
    sign(build.path)
    done = quantal("verify", build.path, "--on", "c-host")
    assert done.code == 1
    assert re.search(r"layer output, argmax of neuron 0: expected 0, got 3\n$", done.err)

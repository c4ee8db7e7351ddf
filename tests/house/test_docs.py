"""What the pages show is true: tables are what scripts write, code runs, links lead somewhere, lists are whole."""

import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import fields

import click
import pytest

from quantal.export.cli.commands import COMMANDS, by_name
from quantal.export.encoders import ENCODERS
from quantal.export.ir.network import StateVar
from quantal.export.ir.ops import OPS
from quantal.export.run import EXECUTORS
from quantal.qat.arithmetic.neurons import NEURONS, RESETS, TIMINGS
from quantal.qat.arithmetic.surrogates import SURROGATES
from quantal.qat.config import config_file
from quantal.qat.data.registry import LOADERS
from quantal.qat.quantizers.normalization import NORMS
from quantal.qat.quantizers.states import STATE_QUANTIZERS
from quantal.qat.quantizers.weights import WEIGHT_QUANTIZERS
from quantal.qat.training.warm_start import METHODS
from support.sources import ROOT

sys.path.append(str(ROOT / "docs"))
import fill

PAGES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in fill.pages()}
FENCED = re.compile(r"^```(.*?)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHELL = ("sh", "console")
BLOCKS = [(name, *block) for name, text in PAGES.items() for block in FENCED.findall(text)]


def blocks(*languages: str) -> list[tuple[str, str]]:
    """(page, code) of every block of code in these languages."""
    return [(name, code) for name, language, code in BLOCKS if language in languages]


def prose(name: str) -> str:
    """The page without its blocks of code."""
    return FENCED.sub("", PAGES[name])


# ---- what scripts write


@pytest.mark.parametrize("name", [name for name, text in PAGES.items() if "<!-- " in text])
def test_blocks_are_what_their_scripts_write(name: str) -> None:
    text = PAGES[name]
    assert len(fill.BLOCK.findall(text)) == text.count("<!-- end -->") == text.count("<!-- ") / 2
    assert fill.filled(text) == text, "write it anew with `make results`"


# ---- links and names


def anchors(text: str) -> set[str]:
    """What links may name of the page: its headings, in lower case, with hyphens for spaces."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(name)):
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("name", PAGES)
def test_every_file_it_names_is_there(name: str) -> None:
    rooms = "qat|export|golden|templates|tests|benchmarks|docs"
    for path in re.findall(rf"`((?:{rooms})/[\w/.]*)", PAGES[name]):
        assert (ROOT / path).exists(), path


# ---- blocks of code


def test_every_language_has_a_test() -> None:
    assert {language for _, language, _ in BLOCKS if language[:1] != "{"} == {
        *("c", "json", "python", "text", "toml", *SHELL)  # of C: test_readme.py
    }


@pytest.mark.parametrize(("name", "code"), blocks("toml"))
def test_networks_are_read(name: str, code: str) -> None:
    document = tomllib.loads(code)
    before = "" if "task" in document else '[task]\nname = "npz"\n[encoder]\nkind = "rate"\nsteps = 16\n'
    neuron = document["layer"][-1].get("neuron", "lif")
    readout = NEURONS[neuron if isinstance(neuron, str) else neuron["kind"]].readout
    after = "" if readout else '[[layer]]\nname = "last"\nsize = 3\nneuron = "li"\n'
    assert config_file.loads(before + code + after, name).layers


@pytest.mark.parametrize(("name", "code"), blocks("python"))
def test_python_runs(name: str, code: str) -> None:
    exec(compile(code, name, "exec"), {})


@pytest.mark.parametrize(("name", "code"), blocks("json"))
def test_json_is_read(name: str, code: str) -> None:
    assert json.loads(code)


def commands(code: str, language_has_prompts: bool) -> Iterable[list[str]]:
    """The words of each command in a block of shell."""
    for line in code.splitlines():
        if not language_has_prompts or line.startswith("$ "):
            yield shlex.split(line.removeprefix("$ "), comments=True)


def check_command(words: list[str]) -> None:
    """Fails unless the command is one that there is, with options that it has."""
    match words:
        case ["quantal", command, *options]:
            known = by_name(COMMANDS[command][0])
            known.make_parser(click.Context(known)).parse_args(options)
        case ["torchrun", *_] if "quantal" in words:
            check_command(words[words.index("quantal") :])
        case ["make", target, *_]:
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            assert re.search(rf"^{target}\b.*:", makefile, re.MULTILINE), target
        case ["python", script, *options]:
            said = (ROOT / script).read_text(encoding="utf-8") + (ROOT / "benchmarks/study.py").read_text("utf-8")
            assert all(f'"{option}"' in said for option in options if option.startswith("--")), words
        case ["pip", "install", "--no-deps", "quantal"] | ["pip", "install", "click", *_]:
            pass  # the light install: see test_install.py
        case ["pip", "install", package]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
            named = re.fullmatch(r"quantal(?:\[(\w+)\])?", package)
            assert named
            assert named[1] is None or named[1] in extras
        case ["sed", "-i", _, _] | []:
            pass
        case _:
            pytest.fail(f"no test knows {words}")


@pytest.mark.parametrize(("name", "code", "prompts"), [(*b, s == "console") for s in SHELL for b in blocks(s)])
def test_commands_and_options_are_there(name: str, code: str, prompts: bool) -> None:
    found = list(commands(code, prompts))
    assert found
    for words in found:
        check_command(words)


# ---- lists that have to be whole

LISTS = {
    "docs/guide/data.md": (*LOADERS,),
    "docs/guide/network.md": (*ENCODERS,),
    "docs/guide/neurons.md": (*NEURONS, *RESETS, *TIMINGS),
    "docs/guide/normalizations.md": tuple(name for name in NORMS if name != "none"),
    "docs/guide/quantizers.md": (*WEIGHT_QUANTIZERS, *STATE_QUANTIZERS, *METHODS),
    "docs/guide/training.md": (*SURROGATES,),
    "docs/network_json.md": (*OPS, *(field.name for field in fields(StateVar))),
    "docs/verification.md": (*EXECUTORS,),
    "docs/tour.md": (*(name for name in COMMANDS if name != "prune"),),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_are_whole(name: str) -> None:
    quoted = set(re.findall(r'[`"]([\w-]+)["`]', PAGES[name])) | set(re.findall(r"^`quantal (\w+)", PAGES[name]))
    assert [entry for entry in LISTS[name] if entry not in quoted and f"quantal {entry}" not in PAGES[name]] == []


def test_the_ops_have_the_arguments_that_the_page_lists() -> None:
    rows = re.findall(r"^\| `([A-Z]+)` \| (.*?) \|", PAGES["docs/network_json.md"], re.MULTILINE)
    listed = {op: set(re.findall(r"`(\w+)`", arguments)) for op, arguments in rows}
    assert listed == {name: {field.name for field in fields(op)} for name, op in OPS.items()}


def test_every_field_of_a_network_file_is_described() -> None:
    described = set(re.findall(r"`(\w+)`", PAGES["docs/network_json.md"]))
    network = json.loads((ROOT / "golden/graph_delays/build/network.json").read_text(encoding="utf-8"))
    layers = network["layers"]
    inner = [network["input"], network["input"]["encoding"], *layers]
    inner += [item for layer in layers for item in (*layer["ops"], *layer["states"], *layer["weights"].values())]
    assert {key for part in (network, *inner) for key in part} - described == set()


def test_every_public_name_of_the_headers_is_listed() -> None:
    listed = set(re.findall(r"\bNAME_(\w+)", PAGES["docs/header.md"]))
    for path in (ROOT / "golden").glob("*/build/*.h"):
        name = path.stem
        public = path.read_text(encoding="utf-8").partition(f"#endif /* {name.upper()}_H */")[0]
        declared = re.sub(r"/\*.*?\*/", "", public, flags=re.DOTALL)
        found = set(re.findall(rf"\b(?:{name}|{name.upper()})_(\w+)", declared))
        assert found - {"H"} <= listed, path

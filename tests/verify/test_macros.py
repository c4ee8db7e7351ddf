"""A header's macros stand for what network.json says: `verify` fails where one of them says otherwise."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from quantal.export.base.toolchain import CORES
from quantal.export.build import Build
from quantal.export.run.verify import batched, verify
from support.golden import GOLDEN

pytest.importorskip("unicorn")
pytest.importorskip("ziglang")

CASES = ("feed_forward", "recurrent_zero_immediate")  # values as they are, and an encoder on the device
NUMBERS = ("INPUTS", "INPUT_MIN", "INPUT_MAX", "OUTPUTS", "STEPS")
MACROS = [(case, name) for case in CASES for name in ("GENERATOR", "DIGEST", *NUMBERS)] + [(CASES[1], "CHANNELS")]


def verified(build: Build, executor: str) -> tuple[bool, str]:
    """Whether all is well, and the first thing that is not."""
    x, trace = build.vectors()
    comparison, error = verify(build, executor, batched(x, trace, len(x)), lambda _: None)
    return comparison.good and error is None, str(error or comparison.first)


def with_macro(case: str, name: str, folder: Path) -> Build:
    """A copy of the case whose header has another value for the macro: one more, or its last letter another."""
    build = Build.open(GOLDEN / case / "build")
    copied = replace(build, path=shutil.copytree(build.path, folder))
    text = copied.header.read_text(encoding="utf-8")
    found = re.search(rf'#define {case.upper()}_{name}(?: \\\n)? +(?:\(?(-?\d+)\)?|"(.+)")', text)
    assert found is not None, name
    group = 1 if found[1] is not None else 2
    start, end = found.span(group)
    wrong = str(int(found[1]) + 1) if group == 1 else found[2][:-1] + ("0" if found[2][-1] != "0" else "1")
    copied.header.write_text(text[:start] + wrong + text[end:], encoding="utf-8")
    return copied


def test_every_macro_with_a_value_is_among_them() -> None:
    for case in CASES:
        text = (GOLDEN / case / "build" / f"{case}.h").read_text(encoding="utf-8")
        defined = set(re.findall(rf"^#define {case.upper()}_(\w+)(?: \\\n)? +\S", text, re.MULTILINE))
        assert defined == {name for one, name in MACROS if one == case}
        assert defined == set(Build.open(GOLDEN / case / "build").macros)


@pytest.mark.parametrize(("case", "name"), MACROS)
def test_a_macro_that_says_otherwise_fails_on_the_host(case: str, name: str, tmp_path: Path) -> None:
    good, why = verified(with_macro(case, name, tmp_path / "build"), "c-host")
    assert not good
    assert name in why or name in ("INPUTS", "OUTPUTS", "CHANNELS"), why  # by these the program reads and writes


@pytest.mark.parametrize(("case", "name"), [one for one in MACROS if one[0] == CASES[1]])
def test_a_macro_that_says_otherwise_fails_on_a_core(case: str, name: str, tmp_path: Path) -> None:
    good, why = verified(with_macro(case, name, tmp_path / "build"), next(iter(CORES)))
    assert not good, why


@pytest.mark.parametrize("executor", ["c-host", *CORES])
def test_the_macros_as_they_are_pass(executor: str) -> None:
    assert verified(Build.open(GOLDEN / CASES[1] / "build"), executor)[0]


def test_a_longer_text_is_another(tmp_path: Path) -> None:
    build = Build.open(GOLDEN / CASES[0] / "build")
    copied = replace(build, path=shutil.copytree(build.path, tmp_path / "build"))
    text = copied.header.read_text(encoding="utf-8")
    copied.header.write_text(re.sub(r'(_GENERATOR "[^"]+)"', r'\1 and more"', text), encoding="utf-8")
    good, why = verified(copied, "c-host")
    assert not good
    assert "length of macro GENERATOR" in why

"""No header of a golden case can do what C leaves undefined, whatever its inputs, for ever: so says Frama-C.

`make test` takes a share of the headers that has every line of the templates and of the emitter in it; `make proof`
takes them all, and a share of them exactly.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from frama_c import DATA_MODELS, analyse

from export.build import Build
from export.ir import Network

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
HEADERS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(GOLDEN.glob("*/build/*.h"))}
BY_SIZE = sorted(HEADERS, key=lambda case: (len(HEADERS[case]), case))


@pytest.fixture(autouse=True)
def _frama_c() -> None:
    if not shutil.which("frama-c"):
        pytest.skip("no frama-c here: install your system's frama-c-base")


def shapes(header: str) -> set[str]:
    """The lines of code of the implementation, without tables, whatever names and numbers stand in them."""
    code = re.sub(r"/\*.*?\*/", "", header[header.index("_IMPLEMENTED\n") :], flags=re.DOTALL)
    code = re.sub(r"\b(?!uint_fast|u?int\d)[A-Za-z]\w*_\w*", "N", code)
    code = re.sub(r"\bv\d+\b|\(-2147483647 - 1\)", "v", re.sub(r"(?<![\w-])-?\d+u?\b", "#", code))
    code = re.sub(r"(\(v >= N\[#\]\) \+ )+", "", code)  # as many as there are borders
    return {line.strip() for line in code.splitlines() if re.search("[a-z]", line)}


def share() -> list[str]:
    """The headers that have every shape of line in them: small ones first, and none that adds no shape."""
    chosen: list[str] = []
    left = set.union(*map(shapes, HEADERS.values()))
    while left:
        gains = {case: len(shapes(HEADERS[case]) & left) / len(HEADERS[case]) for case in BY_SIZE}
        chosen.append(max(BY_SIZE, key=lambda case: gains[case]))
        left -= shapes(HEADERS[chosen[-1]])
    return chosen


SHARE = share()
PROOF = [pytest.param(case, marks=() if case in SHARE else pytest.mark.proof) for case in HEADERS]


def network_of(case: str) -> Network:
    return Build.open(GOLDEN / case / "build").network


@pytest.mark.parametrize("data_model", DATA_MODELS)
@pytest.mark.parametrize("case", PROOF)
def test_no_header_has_an_alarm(case: str, data_model: str, tmp_path: Path) -> None:
    verdict = analyse(network_of(case), HEADERS[case], tmp_path, "plain", data_model)
    assert verdict.alarms == ()
    assert verdict.everywhere


@pytest.mark.proof
@pytest.mark.parametrize("data_model", DATA_MODELS)
@pytest.mark.parametrize("case", SHARE)
def test_every_sum_state_and_output_fits_in_its_word(case: str, data_model: str, tmp_path: Path) -> None:
    assert analyse(network_of(case), HEADERS[case], tmp_path, "exact", data_model).alarms == ()


def more(found: re.Match[str]) -> str:
    """The number that ends the match, and one more."""
    return found[0].removesuffix(found[1]) + str(int(found[1]) + 1)


CLAMP = r"= (v\d+) < -128 \? -128 : \(\1 > 127 \? 127 : \1\);"
FAULTS: dict[str, tuple[str, str, str | Callable[[re.Match[str]], str]]] = {
    "an input too many": ("plain", r"for \(e = 0; e < (\d+)(?=[^\n]*\n[^\n]*= in\[e)", more),
    "a place too many": ("plain", r"for \(place = 0; place < (\d+)(?=[^\n]*\n[^\n]*= in\[)", more),
    "a neuron too many": ("plain", r"for \(i = 0; i < (\d+)(?=[^\n]*\n *const int32_t v\d+ = \w+\[i\])", more),
    "a code beyond its table": ("plain", r"(?<=\[b & )15(?=\])", "31"),
    "a state that is not reset": ("exact", r"(?<!sums)\[i\] = 0;", "[i];"),
    "a sum that overflows": ("plain", r"(?<=const int32_t )(v\d+) = (v\d+) \+ (v\d+);", r"\1 = \2 * 65536 * 256 + \3;"),
    "no clamp": ("exact", CLAMP, r"= \1;"),
    "a clamp one wider": ("exact", CLAMP, r"= \1 < -128 ? -128 : (\1 > 128 ? 128 : \1);"),
    "a sum that is not cleared": ("exact", r"sums\[i\] = 0;", "sums[i] = sums[i];"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_header_is_an_alarm(fault: str, tmp_path: Path) -> None:
    analysis, pattern, changed = FAULTS[fault]
    case = next(case for case in BY_SIZE if case in SHARE and re.search(pattern, HEADERS[case]))
    text = re.sub(pattern, changed, HEADERS[case], count=1)
    assert analyse(network_of(case), text, tmp_path, analysis, "int32").alarms

"""No golden header makes Frama-C alarm at what C leaves undefined, whatever its inputs, for ever; limits: frama_c.py.

`make test` takes a share of the headers that has every line of the templates and of the emitter in it, with an int of
16 bits, and faults that Frama-C must find. `make proof` takes all, with both ints, and replays their golden vectors.
"""

import itertools
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest

from quantal.export.build import Build
from support.frama_c import DATA_MODELS, Verdict, analyse
from support.golden import BY_SIZE, GOLDEN, HEADERS, SHARE


@pytest.fixture(autouse=True)
def _frama_c() -> None:
    if not shutil.which("frama-c"):
        pytest.skip("no frama-c here: install your system's frama-c-base")


# The intervals of a step suffice to prove these exactly; others need what two values have to do with each other.
EXACT = ("neurons_step", "binary_16bit", "count_late_zero_delayed", "recurrent_subtract", "count_conv_none_delayed")
IN_TEST = set(itertools.product(SHARE, ("int16",)))
PROOF = [
    pytest.param(*each, marks=() if each in IN_TEST else pytest.mark.proof)
    for each in itertools.product(HEADERS, DATA_MODELS)
]


def says(analysis: str, case: str, data_model: str, header: str) -> Verdict:
    return analyse(Build.open(GOLDEN / case / "build").network, header, analysis, data_model)


@cache
def unchanged(analysis: str, case: str, data_model: str) -> Verdict:
    return says(analysis, case, data_model, HEADERS[case])


CLEAN = Verdict(alarms=(), everywhere=True)


@pytest.mark.parametrize(("case", "data_model"), PROOF)
def test_no_header_has_an_alarm(case: str, data_model: str) -> None:
    assert unchanged("plain", case, data_model) == CLEAN


@pytest.mark.proof
@pytest.mark.parametrize("data_model", DATA_MODELS)
@pytest.mark.parametrize("case", HEADERS)
def test_the_self_test_of_every_header_returns_0(case: str, data_model: str) -> None:
    assert unchanged("replay", case, data_model) == CLEAN


@pytest.mark.proof
@pytest.mark.parametrize("data_model", DATA_MODELS)
@pytest.mark.parametrize("case", EXACT)
def test_every_sum_state_and_output_fits_in_its_word(case: str, data_model: str) -> None:
    assert unchanged("exact", case, data_model) == CLEAN


def more(found: re.Match[str]) -> str:
    """The number that ends the match, and one more."""
    return found[0].removesuffix(found[1]) + str(int(found[1]) + 1)


@dataclass(frozen=True)
class Fault:
    """A change to a header, the analysis that must find it, and a word of what it says."""

    analysis: str
    found: str
    pattern: str
    changed: str | Callable[[re.Match[str]], str]
    data_model: str = "int16"


CLAMP = r"= (\w+) < -128 \? -128 : \(\1 > 127 \? 127 : \1\);"
BEYOND, UNWRITTEN = "out of bounds", "uninitialized"
FAULTS = {
    "an input too many": Fault("plain", BEYOND, r"for \(e = 0; e < (\d+)(?=[^\n]*\n[^\n]*= in\[e)", more),
    "a place too many": Fault("plain", BEYOND, r"for \(place = 0; place < (\d+)(?=[^\n]*\n[^\n]*= in\[)", more),
    "a neuron too many": Fault(
        "plain", BEYOND, r"for \(i = 0; i < (\d+)(?=[^\n]*\n *const int32_t \w+ = \w+\[i\])", more
    ),
    "a code beyond its table": Fault("plain", BEYOND, r"(?<=\[b & )15(?=\])", "31"),
    "a sum that overflows": Fault(
        "plain", "signed overflow", r"(?<=const int32_t )(\w+) = (\w+) \+ (\w+);", r"\1 = \2 * 65536 * 256 + \3;"
    ),
    "a sum in an int of 16 bits": Fault("plain", "signed overflow", r"\(int32_t\)(?=sums\[i\] \+)", ""),
    "no clamp": Fault("exact", "downcast", CLAMP, r"= \1;", "int32"),
    "a clamp one wider": Fault("exact", "downcast", CLAMP, r"= \1 < -128 ? -128 : (\1 > 128 ? 128 : \1);", "int32"),
    "a state that is not reset": Fault("replay", UNWRITTEN, r"state->\w+_u\[i\] = 0;", ";"),
    "a sum that is not cleared": Fault("replay", UNWRITTEN, r"sums\[i\] = 0;", ";"),
    "a wrong bit": Fault("replay", "got status invalid", r"_test_hash\[\d+\] = \{\s+(\d+)", more),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_a_header_without_alarms_is_an_alarm(name: str) -> None:
    fault = FAULTS[name]
    cases = sorted(SHARE, key=BY_SIZE.index) if fault.analysis == "plain" else EXACT
    case = next(case for case in cases if re.search(fault.pattern, HEADERS[case]))
    assert unchanged(fault.analysis, case, fault.data_model) == CLEAN
    text = re.sub(fault.pattern, fault.changed, HEADERS[case], count=1)
    assert fault.found in " ".join(says(fault.analysis, case, fault.data_model, text).alarms)

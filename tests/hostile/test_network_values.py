"""Wrong values and mutations of network.json are refused in one line, or make a network that runs."""

import copy
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quantal.export.base.errors import BadInput
from quantal.export.base.names import check_identifier
from quantal.export.ir import interpret
from quantal.export.ir.network import Layer, Network, StateVar
from quantal.export.ir.ops import OPS, Clamp, Input, MatVec
from quantal.export.network_file import dumps, loads
from quantal.export.proof.intervals import prove
from support.messages import one_line
from support.network_text import (
    LAYER,
    PLACES,
    TABLED,
    TEXT,
    WEIGHTS,
    WHERE,
    WINDOWED,
    Path_,
    changed,
    refused,
    value_at,
)

WRONG = [None, True, 1.5, float("nan"), float("inf"), -(10**400), "x y", [[]], {}, {"": 0}]


@pytest.mark.parametrize("path", PLACES[1:], ids=lambda path: ".".join(map(str, path)))
def test_a_value_of_another_type_is_refused(path: Path_) -> None:
    for value in WRONG:
        if value != value_at(path):
            refused(changed(path, value))


@pytest.mark.parametrize("value", WRONG)
def test_a_file_that_is_no_object_is_refused(value: Any) -> None:
    text = json.dumps(value)
    refused(text, "format" if isinstance(value, dict) else "not JSON" if text in ("NaN", "Infinity") else "object")


def test_an_integer_spelt_as_another_type_is_refused() -> None:
    for path in PLACES:
        integer = value_at(path)
        if type(integer) is int:
            for value in (float(integer), str(integer), bool(integer), [integer]):
                refused(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("format",), "quantal integer network, version 2", ("format", "version 1")),
        (("arithmetic", "right_shift"), "truncating", ("arithmetic",)),
        (("name",), "int", ("name", "C identifier", "'int'")),
        (("name",), "../x", ("name", "'../x'")),
        (("name",), "a\n", ("name",)),
        (("name",), "Upper", ("name",)),
        (("name",), "ünïcode", ("name",)),
        (("name",), "x" * 33, ("name",)),
        (("name",), "_x", ("name",)),
        (("input", "size"), 0, ("input: size",)),
        (("input", "size"), 3, ("encoding: channels", "3 inputs")),
        (("input", "encoding"), {}, ("digest",)),
        (("input", "lo"), 1, ("input: lo",)),
        (("input", "hi"), 65536, ("input: hi",)),
        (("input", "dtype"), "fxp-s6/0", ("input: dtype", "fxp-s5/0")),
        (("input", "encoding", "kind"), "*/ #error", ("encoding: kind",)),
        (("input", "encoding", "steps"), -1, ("encoding: steps",)),
        (("input", "encoding", "channels"), 3, ("encoding: channels",)),
        (("layers",), [], ("layers",)),
        ((*LAYER, "name"), "while", ("layers[0]: name", "'while'")),
        ((*LAYER, "name"), "input", ("layer input", "taken")),
        ((*LAYER, "name"), "readout", ("layer readout",)),
        ((*LAYER, "size"), 65537, ("layers[0]: size",)),
        ((*LAYER, "size"), 4, ("layer hidden",)),
        ((*LAYER, "output_name"), "a-b", ("output_name", "'a-b'")),
        ((*LAYER, "output"), 19, ("layer hidden", "19")),
        ((*LAYER, "output"), 0, ("layer hidden", "value 0")),
        ((*LAYER, "output"), 11, ("layer hidden", "value 11")),
        ((*LAYER, "output"), -1, ("output",)),
        ((*LAYER, "states", 0, "name"), "spike", ("layer hidden",)),
        ((*LAYER, "states", 0, "lo"), -59, ("layer hidden", "state u", "[-59, 60]")),
        ((*LAYER, "states", 0, "lo"), 61, ("layer hidden",)),
        ((*LAYER, "states", 0, "init"), 61, ("state u", "starts at 61")),
        ((*LAYER, "states", 0, "next"), 0, ("layer hidden", "value 0")),
        ((*LAYER, "states", 0, "next"), 99, ("layer hidden", "99")),
        ((*LAYER, "states", 0, "fraction"), 2**31 - 1, ("states[0]: fraction",)),
        ((*LAYER, "states", 0, "fraction"), -(2**31), ("states[0]: fraction",)),
        ((*LAYER, "states", 0, "fraction"), -3, ("states[0]: dtype",)),
        ((*LAYER, "states", 0, "dtype"), "int8", ("states[0]: dtype", "fxp-s7/-2")),
        ((*LAYER, "weights", "fan_in", "rows", 0), "1 200", ("weights: fan_in",)),
        ((*LAYER, "weights", "fan_in", "rows", 0), "1 -129", ("weights: fan_in",)),
        ((*LAYER, "weights", "fan_in", "rows", 0), "1 2 3", ("weights: fan_in", "equal length")),
        ((*LAYER, "weights", "fan_in", "rows", 0), "1 x", ("rows[0]",)),
        ((*LAYER, "weights", "fan_in", "rows", 0), "1 1.0", ("rows[0]",)),
        ((*LAYER, "weights", "fan_in", "rows", 0), "1 " + "9" * 5000, ("rows[0]",)),
        ((*LAYER, "weights", "fan_in", "rows"), ["1 -2", "127 -128"], ("(3, 2)", "(2, 2)")),
        ((*LAYER, "weights", "fan_in", "dtype"), "fxp-s4/0", ("weights: fan_in: dtype", "fxp-s8/0")),
        ((*LAYER, "weights", "a b"), {"rows": ["1"], "dtype": "fxp-u1/0"}, ("weights", "'a b'")),
        ((*LAYER, "weights", "fan_in", "rows", 0), "1 256", ("weights: fan_in",)),
        (
            (*TABLED, "weights", "fan_in", "rows", 1),
            "1 3 4",
            ("readout", "fan_in: neuron 1, input 2", "code in [0, 3]"),
        ),
        ((*TABLED, "weights", "fan_in", "rows", 0), "0 -1 1", ("readout", "fan_in: neuron 0, input 1", "[0, 3]", "-1")),
        ((*TABLED, "ops", 1, "levels"), "300 -7 0", ("readout", "fan_in: neuron 1, input 1", "code in [0, 2]", "3")),
        ((*TABLED, "ops", 1, "levels"), "300 -7 0 32768", ("ops[1] (MATVEC): levels", "[-32768, 32767]")),
        ((*TABLED, "ops", 1, "levels"), "1 " * 257, ("ops[1] (MATVEC): levels", "at most 256")),
        ((*TABLED, "ops", 1, "levels"), "", ("ops[1]: levels", "at least one integer")),
        ((*TABLED, "ops", 1, "levels"), "300 -7 0 1", ("ops[1]: interval",)),
        ((*LAYER, "ops", 0, "op"), "NORM", ("ops[0]: op", "MATVEC")),
        ((*LAYER, "ops", 0, "source"), "readout", ("ops[0] (INPUT)", "source", "'readout'")),
        ((*LAYER, "ops", 1, "weights"), "none", ("ops[1] (MATVEC)", "'none'")),
        ((*LAYER, "ops", 1, "x"), 1, ("ops[1] (MATVEC)", "value 1")),
        ((*LAYER, "ops", 4, "x"), 1, ("ops[4] (MATVEC)", "INPUT or a STATE")),
        ((*LAYER, "ops", 4, "x"), 0, ("ops[4] (MATVEC)", "(3, 2)", "(3, 3)")),
        ((*LAYER, "ops", 5, "a"), 0, ("ops[5] (ADD)", "2 inputs")),
        ((*LAYER, "ops", 5, "b"), 6, ("ops[5] (ADD)", "value 6")),
        ((*LAYER, "ops", 5, "b"), -1, ("ops[5] (ADD)", "value -1")),
        ((*LAYER, "ops", 6, "name"), "v", ("ops[6] (STATE)", "'v'")),
        ((*LAYER, "ops", 7, "name"), "a[1]; /*", ("ops[7]: name", "C identifier")),
        ((*LAYER, "ops", 7, "values"), "57 58", ("ops[7] (TABLE)", "divides 3")),
        ((*LAYER, "ops", 7, "values"), "57 58 59 60", ("ops[7] (TABLE)", "divides 3")),
        ((*LAYER, "ops", 7, "values"), f"57 58 {2**31}", ("ops[7]: values", "32 bits")),
        ((*LAYER, "ops", 9, "shift"), 99, ("ops[9] (SHR)", "shift", "99")),
        ((*LAYER, "ops", 2, "shift"), -1, ("ops[2] (SHL)", "shift", "-1")),
        ((*LAYER, "ops", 2, "shift"), 31, ("layer hidden", "neuron 0", "SHL", "32 bits")),
        ((*LAYER, "ops", 16, "borders"), "-50 50 0", ("ops[16] (STEP)", "ascending")),
        ((*LAYER, "ops", 16, "borders"), "0 50 49", ("ops[16] (STEP)", "ascending")),
        ((*LAYER, "ops", 17, "levels"), "-64 -16 16", ("layer hidden", "LOOKUP", "3 levels")),
        ((*LAYER, "ops", 18, "lo"), 61, ("ops[18] (CLAMP)", "61")),
        ((*LAYER, "ops", 18, "hi"), 61, ("layer hidden", "state u")),
        ((*LAYER, "ops", 18, "interval"), [-60, 61], ("ops[18]: interval[1]", "60")),
        ((*LAYER, "ops", 18, "interval"), [-60], ("ops[18]: interval",)),
        ((*WINDOWED, "ops", 1, "shape"), "1 2 1", ("ops[1] (CONV)", "4 values in a layer of 2")),
        ((*WINDOWED, "ops", 1, "shape"), "1 2 2", ("ops[1] (CONV)", "shape", "2 values")),
        ((*WINDOWED, "ops", 1, "shape"), "1 2", ("ops[1] (CONV)", "shape", "3 integers")),
        ((*WINDOWED, "ops", 1, "stride"), "0 1", ("ops[1] (CONV)", "stride", "from 1 up")),
        ((*WINDOWED, "ops", 1, "stride"), "1 1", ("ops[1] (CONV)", "6 values in a layer of 2")),
        ((*WINDOWED, "ops", 1, "padding"), "0 2", ("ops[1] (CONV)", "padding")),
        ((*WINDOWED, "ops", 1, "padding"), "0 -1", ("ops[1] (CONV)", "padding", "from 0 up")),
        ((*WINDOWED, "ops", 1, "kernel"), "1 6", ("ops[1] (CONV)", "kernel")),
        ((*WINDOWED, "ops", 1, "groups"), 2, ("ops[1] (CONV)", "groups", "2 do not divide 1")),
        ((*WINDOWED, "ops", 1, "groups"), 0, ("ops[1] (CONV)", "groups", "0 do not divide 1")),
        ((*WINDOWED, "ops", 4, "x"), 1, ("ops[4] (SUMPOOL)", "INPUT or a STATE")),
        ((*WINDOWED, "ops", 4, "kernel"), "2 1", ("ops[4] (SUMPOOL)", "kernel")),
        ((*WINDOWED, "weights", "kernels", "rows"), ["0", "1"], ("ops[1] (CONV)", "kernels of 2 weights")),
        ((*WINDOWED, "states", 0, "delay"), 1, ("states[0]: delay", "[2, 4096]")),
        (("digest",), "sha256:" + "0" * 64, ("digest",)),
    ],
    ids=lambda value: None if isinstance(value, tuple) else json.dumps(value)[:20],
)
def test_a_wrong_value_is_refused_naming_its_place(path: Path_, value: Any, words: tuple[str, ...]) -> None:
    refused(changed(path, value), *words)


def test_records_that_collide_in_c_are_refused() -> None:
    def one(name: str, state: str) -> Layer:
        ops = Input("input"), MatVec("w", 0), Clamp(1, 0, 1)
        return Layer(name, 3, {}, ops, (StateVar(state, 0, 0, 1, 2),), {"w": WEIGHTS}, 2, "out")

    apart = Network("n", 2, 0, 1, {}, (one("a", "b_c"), one("a_c", "b")))
    assert dumps(loads(dumps(prove(apart)), WHERE)) == dumps(prove(apart))
    for network in (
        replace(apart, layers=(one("a", "b_c"), one("a_b", "c"))),  # both a_b_c
        replace(apart, layers=(one("a", "b"), one("a", "b"))),
    ):
        with pytest.raises(BadInput) as error:
            dumps(prove(network))
        one_line(error)


@pytest.mark.parametrize("where", [(), ("name",), (*LAYER, "size"), (*LAYER, "ops", 0, "interval"), (*LAYER, "ops", 1)])
def test_nesting_of_any_depth_is_refused(where: Path_) -> None:
    marker = changed(where, "@") if where else '"@"'
    for depth in (*range(2, 1200, 7), *range(900, 1000), 100_000):
        refused(marker.replace('"@"', "[" * depth + "]" * depth, 1))
    refused(marker.replace('"@"', '{"a":' * 970 + "0" + "}" * 970, 1))


@pytest.mark.parametrize("name", ["a", "hidden", "x1_y2", "z" * 32])
def test_an_identifier_is_taken(name: str) -> None:
    assert check_identifier(name, "x") == name


@pytest.mark.parametrize("text", ["*/ int evil; /*", "line\nbreak", "\\", "\x1b[2J", "??/", "é" * 10, "x" * 1000])
def test_free_text_that_could_leave_a_c_comment_is_refused(text: str) -> None:
    refused(changed((*LAYER, "semantics", "neuron"), text), trust_digest=True)
    refused(changed((*LAYER, "semantics", text), "lif"), trust_digest=True)


# ---- mutation

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-300, 300)
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([*OPS, "hidden", "readout", "input", "u", "spike", "fan_in", "0 1", "1 -2", "-5 0 5 7"])
)
VALUES = SCALARS | st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
MUTATIONS = st.lists(
    st.tuples(st.sampled_from(PLACES[1:]), VALUES | st.sampled_from(PLACES[1:]).map(value_at)), max_size=3
)


@given(MUTATIONS, st.booleans())
@example([((*LAYER, "states", 0, "lo"), 3), ((*LAYER, "states", 0, "hi"), 2), ((*LAYER, "ops", 17, "a"), 6)], True)
@settings(max_examples=500, deadline=None)
def test_any_change_is_refused_in_one_line_or_gives_a_network_that_runs(
    mutations: list[tuple[Path_, Any]], trust_digest: bool
) -> None:
    document = json.loads(TEXT)
    for path, value in mutations:
        place = document
        try:
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = copy.deepcopy(value)
        except (KeyError, IndexError, TypeError):
            pass  # an earlier change took the place away
    text = json.dumps(document)
    try:
        proven = loads(text, WHERE, trust_digest=trust_digest)
    except BadInput:
        refused(text, trust_digest=trust_digest)
        return
    network = proven.network
    assert loads(dumps(proven), WHERE).network.name == network.name
    x = np.full((1, 3, network.inputs), network.input_hi, np.int64)
    assert interpret.run(network, x)["output"].shape == (1, 3, network.outputs)
    assert trust_digest or document == json.loads(TEXT)

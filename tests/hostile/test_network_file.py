"""network.json: read back it is the same network; whatever else is in the file is refused in one line."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quantal.export.base.errors import BadInput
from quantal.export.ir import interpret
from quantal.export.ir.network import Layer, Network
from quantal.export.ir.ops import OPS, Input, MatVec, op_name
from quantal.export.network_file import digest, dumps, load, loads
from quantal.export.proof.intervals import prove
from support.messages import one_line
from support.network_text import (
    CODES,
    ENCODING,
    FIELDS,
    HIDDEN,
    LAYER,
    NETWORK,
    OBJECTS,
    PLANE,
    READOUT,
    TABLED,
    TEXT,
    WHERE,
    WINDOWED,
    Path_,
    changed,
    refused,
    value_at,
)

ENCODING_NEEDS = ("kind", "steps", "seed", "channels", "maximum")  # of the rate encoder


# ---- round trip


def test_the_example_holds_every_op() -> None:
    assert {op_name(op) for layer in NETWORK.layers for op in layer.ops} == set(OPS)


def test_a_network_reads_back_to_the_same_bytes_and_the_same_trace() -> None:
    again = loads(TEXT, WHERE)
    assert dumps(again) == TEXT
    assert digest(again) == digest(prove(NETWORK)) == json.loads(TEXT)["digest"]
    x = np.random.default_rng(0).integers(-3, 9, (4, 30, 2), endpoint=True)
    before, after = interpret.run(NETWORK, x), interpret.run(again.network, x)
    assert list(before) == list(after) == ["hidden.u", "hidden.spike", "readout.membrane", "plane.sum", "output"]
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_file_is_read_as_its_text(tmp_path: Path) -> None:
    path = tmp_path / "network.json"
    path.write_text(TEXT)
    assert dumps(load(path)) == TEXT


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe{}", b"\x00", b"\xef\xbb\xbf{}"])
def test_an_unreadable_file_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "network.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput) as error:
        load(path)
    one_line(error, str(path))
    with pytest.raises(BadInput) as error:
        load(tmp_path)  # a folder
    one_line(error, str(tmp_path))


def test_the_text_is_sorted_ascii_without_dates_or_paths() -> None:
    assert TEXT.isascii()
    assert json.dumps(json.loads(TEXT), sort_keys=True, indent=1) + "\n" == TEXT
    assert not re.search(r"20\d\d|/work|/tmp|/home", TEXT)


def with_weight(value: int) -> Network:
    weights = {**HIDDEN.weights, "recurrent": HIDDEN.weights["recurrent"].copy()}
    weights["recurrent"][2, 1] = value
    return replace(NETWORK, layers=(replace(HIDDEN, weights=weights), READOUT, PLANE))


def test_levels_are_written_where_there_are_any() -> None:
    fan_in, readout = value_at((*LAYER, "ops", 1)), value_at((*TABLED, "ops", 1))
    assert readout["levels"] == "300 -7 0 -32768"
    assert "levels" not in fan_in
    refused(changed(("layers", 0, "ops", 1, "levels"), ""), "ops[1]: levels", "at least one integer")
    (product,) = (op for op in loads(TEXT, WHERE).network.layers[1].ops if isinstance(op, MatVec))
    assert loads(TEXT, WHERE).network.layers[1].matrix(product).tolist() == [[300, 0, -7], [-7, -32768, -32768]]


def test_codes_beyond_127_are_read_back() -> None:
    levels = tuple(range(-400, 0, 2))
    codes = np.arange(0, 200, 5, np.uint8).reshape(2, 20)
    layer = Layer("readout", 2, {}, (Input("input"), MatVec("w", 0, levels)), (), {"w": codes}, 1, "sum")
    again = loads(dumps(prove(Network("n", 20, 0, 1, {}, (layer,)))), WHERE).network.layers[0]
    assert np.array_equal(again.weights["w"], codes)
    assert np.array_equal(again.matrix(MatVec("w", 0, levels)), 2 * codes.astype(int) - 400)


def test_one_matrix_read_with_two_tables_or_with_none_is_refused() -> None:
    for extra, words in (
        (MatVec("fan_in", 0, (1, 2, 3, 4)), "several with the same levels"),
        (MatVec("fan_in", 0), "several with the same levels"),
    ):
        layer = replace(READOUT, ops=(*READOUT.ops, extra))
        with pytest.raises(BadInput) as error:
            dumps(prove(replace(NETWORK, layers=(HIDDEN, layer, PLANE))))
        one_line(error, "layer readout: weights: fan_in", words)
    layer = replace(READOUT, weights={**READOUT.weights, "unread": CODES})
    with pytest.raises(BadInput) as error:
        dumps(prove(replace(NETWORK, layers=(HIDDEN, layer, PLANE))))
    one_line(error, "layer readout: weights: unread", "one op that reads it")


def test_the_digest_changes_with_one_level() -> None:
    ops = (READOUT.ops[0], MatVec("fan_in", 0, (300, -7, 1, -(2**15))))
    assert digest(prove(replace(NETWORK, layers=(HIDDEN, replace(READOUT, ops=ops), PLANE)))) != digest(prove(NETWORK))


def test_the_digest_changes_with_one_weight_and_with_nothing_but_the_network() -> None:
    assert digest(prove(with_weight(0))) == digest(prove(NETWORK))
    assert digest(prove(with_weight(1))) != digest(prove(NETWORK))
    assert digest(prove(NETWORK.renamed("other"))) != digest(prove(NETWORK))
    assert digest(prove(replace(NETWORK, encoding=ENCODING | {"steps": 9}))) != digest(prove(NETWORK))


def test_a_changed_weight_is_refused_unless_the_digest_is_trusted() -> None:
    path = "layers", 0, "weights", "recurrent", "rows", 2
    assert value_at(path) == "0 0 1"
    text = changed(path, "0 1 1")
    refused(text)
    proven = loads(text, WHERE, trust_digest=True)
    assert digest(proven) == digest(prove(with_weight(1)))


# ---- refusals


@pytest.mark.parametrize("share", range(50))
def test_a_truncated_file_is_refused(share: int) -> None:
    refused(TEXT[: len(TEXT) * share // 50], "not JSON")


@pytest.mark.parametrize("path", FIELDS, ids=lambda path: ".".join(map(str, path)))
def test_a_missing_field_is_refused_by_name(path: Path_) -> None:
    document = json.loads(TEXT)
    place = document
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    free = path[-2:-1] in (("semantics",), ("encoding",))  # only the digest knows that something is missing
    # Without levels, the codes are weights; without a delay it is 1.
    shows = {(*TABLED, "ops", 1, "levels"): "interval", (*WINDOWED, "ops", 1, "levels"): "interval"}.get(path, path[-1])
    shows = "digest" if shows == "delay" else shows
    refused(json.dumps(document), "digest" if free and path[-1] not in ENCODING_NEEDS else str(shows))


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: ".".join(map(str, path)))
def test_an_unknown_field_is_refused_by_name(path: Path_) -> None:
    free = path[-1:] in (("encoding",), ("semantics",))  # their names are refused only where they are no identifiers
    for name in ("extra", "line\nbreak", "\x1b[2Jescape"):
        for value in (0, "1", [], {}):
            refused(changed((*path, name), value), *([] if free else [repr(name)[1:-1]]))
    refused(changed((*path, "\ud800"), 0), "not JSON")  # half a letter

"""Golden vectors survive the disk, a damaged file is refused in one line, and the first mismatch is the first."""

import io
import json
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantal.export.base.errors import BadInput, ExecutorError
from quantal.export.ir import interpret
from quantal.export.verify import vectors
from quantal.export.verify.vectors import Comparison, check_input, dumps, load, record_sizes
from quantal.qat.lower import exact_dtype, lower
from quantal.qat.network.trace import hard_trace
from support.layers import a_layer
from support.messages import one_line
from support.torch_networks import random_input, random_network

HIDDEN = a_layer("hidden", 1, recurrent=True)  # one neuron: its arrays are contiguous in more than one order
TRAINED = random_network(HIDDEN, a_layer("readout", 2, neuron="li", pool="max"), channels=3, maximum=5, seed=1)
LOWERED = lower(TRAINED, "example")
NETWORK = LOWERED.network
X = random_input(4, 6, 3, 5, seed=2)
TRACE = interpret.run(NETWORK, X)
SIZES = {"hidden.u": 1, "hidden.spike": 1, "readout.u": 2, "readout.best": 2, "output": 2}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vectors.npz"


def refused(path: Path, *words: str) -> None:
    with pytest.raises(BadInput) as error:
        load(path, NETWORK)
    assert one_line(error, *words).startswith(f"{path}: ")


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]


# ---- the file


def test_the_records_are_each_state_each_output_that_is_no_state_and_the_output() -> None:
    assert list(record_sizes(NETWORK).items()) == list(SIZES.items())
    assert {name: values.shape for name, values in TRACE.items()} == {name: (4, 6, n) for name, n in SIZES.items()}


def test_what_is_saved_is_loaded(path: Path) -> None:
    path.write_bytes(dumps(X, TRACE))
    x, trace = load(path, NETWORK)
    assert np.array_equal(x, X)
    assert x.dtype == np.int64
    assert list(trace) == list(SIZES)
    assert all(np.array_equal(trace[name], TRACE[name]) for name in SIZES)


@given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_every_32_bit_value_survives(path: Path, a: int, b: int) -> None:
    trace = {name: np.full_like(values, a) for name, values in TRACE.items()} | {"output": np.full((4, 6, 2), b)}
    trace["output"][0, 0] = a, b
    path.write_bytes(dumps(X, trace))
    _, loaded = load(path, NETWORK)
    assert all(np.array_equal(loaded[name], trace[name]) for name in SIZES)


def test_the_bytes_depend_on_the_values_alone(path: Path, tmp_path: Path) -> None:
    path.write_bytes(dumps(X, TRACE))
    torch_trace = hard_trace(TRAINED, X, exact_dtype(LOWERED))
    other_order = {name: np.asfortranarray(values) for name, values in TRACE.items()}
    small = {name: values.astype(np.int16) for name, values in TRACE.items()}
    for kind, trace in {"torch": torch_trace, "Fortran": other_order, "int16": small}.items():
        (tmp_path / "again.npz").write_bytes(dumps(X.astype(np.uint8), trace))
        assert (tmp_path / "again.npz").read_bytes() == path.read_bytes(), kind


def test_the_records_come_in_the_networks_order_whatever_the_files(path: Path) -> None:
    write(path, dict(reversed(({"input": X} | TRACE).items())))
    assert list(load(path, NETWORK)[1]) == list(SIZES)


# ---- malformed files


@pytest.mark.parametrize("share", range(50))
def test_a_truncated_file_is_refused(path: Path, share: int) -> None:
    path.write_bytes(dumps(X, TRACE))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * share // 50])
    refused(path)


@pytest.mark.parametrize("content", [b"garbage" * 99, b"PK\x03\x04" + bytes(99), b"PK\x05\x06" + bytes(18)])
def test_garbage_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    refused(path)


def test_a_missing_file_and_a_folder_are_refused(path: Path, tmp_path: Path) -> None:
    refused(path)
    refused(tmp_path)


def test_any_changed_byte_is_refused_in_one_line_or_gives_arrays_of_the_right_form(path: Path) -> None:
    path.write_bytes(dumps(X, TRACE))
    content = path.read_bytes()
    rng = np.random.default_rng(3)
    for at in rng.choice(len(content), 300, replace=False):
        path.write_bytes(content[:at] + bytes([content[at] ^ rng.integers(1, 256)]) + content[at + 1 :])
        try:
            x, trace = load(path, NETWORK)
        except BadInput:
            refused(path)
        else:
            assert x.shape == X.shape
            assert {name: values.shape for name, values in trace.items()} == {n: v.shape for n, v in TRACE.items()}


def test_a_single_array_is_refused(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, X)
    refused(path)


def test_pickled_objects_are_refused_and_never_loaded(path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, ("raise SystemExit('code from the file ran')",))

    for name in ("input", "output"):
        bomb = np.empty((4, 6, 2), object)
        bomb[:] = Bomb()
        write(path, {"input": X} | TRACE | {name: bomb})
        refused(path)


def test_a_member_that_is_no_array_is_refused(path: Path) -> None:
    path.write_bytes(dumps(X, TRACE))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for old, new in (("input.npy", "input"), ("output.npy", "output"), ("hidden.u.npy", "hidden.u")):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(*((new, b"no array") if name == old else (name, content)))
        refused(path, new)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_compressed_member_is_refused(path: Path, method: int) -> None:
    path.write_bytes(dumps(X, TRACE))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        at = archive.getinfo("input.npy").header_offset + 30 + len("input.npy")
    if method != zipfile.ZIP_DEFLATED:  # numpy writes no other
        refused(path, "neither stored nor deflated")
        return
    assert np.array_equal(load(path, NETWORK)[0], X)
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + bytes(40) + whole[at + 40 :])
    refused(path)


@pytest.mark.parametrize("name", ["input", *SIZES])
def test_a_missing_array_is_refused_by_name(path: Path, name: str) -> None:
    arrays = {"input": X} | TRACE
    del arrays[name]
    write(path, arrays)
    refused(path, name)


@pytest.mark.parametrize("name", ["extra", "hidden.v", "a\nb"])
def test_an_extra_array_is_refused_by_name(path: Path, name: str) -> None:
    write(path, {"input": X, name: X} | TRACE)
    refused(path, repr(name)[1:-1])


def test_an_empty_archive_is_refused(path: Path) -> None:
    write(path, {})
    refused(path)


@pytest.mark.parametrize("name", ["input", *SIZES])
def test_a_wrong_shape_or_type_is_refused_by_name(path: Path, name: str) -> None:
    good = ({"input": X} | TRACE)[name]
    wrong = [
        good[:3], good[:, :5], good[:, :, :0], np.concatenate([good, good], axis=2), good[0], good[..., None],
        np.int64(3), np.array([]), good.astype(float), good.astype(bool), good.astype(complex), good.astype("U3"),
        good.astype("m8[s]"), good.astype([("a", "i4")]),
    ]  # fmt: skip
    for values in wrong:
        write(path, {"input": X} | TRACE | {name: values})
        refused(path, name if values.shape[:2] == (4, 6) else "")


@pytest.mark.parametrize("axis", [0, 1])
def test_vectors_without_a_sample_or_a_step_are_refused(path: Path, axis: int) -> None:
    write(path, {name: np.take(values, [], axis=axis) for name, values in ({"input": X} | TRACE).items()})
    refused(path, "input")


@pytest.mark.parametrize("value", [-1, 6, 2**15, 2**40, -(2**63), 2**63 - 1])
def test_an_input_outside_the_proven_interval_is_refused(path: Path, value: int) -> None:
    x = X.copy()
    x[2, 3, 1] = value
    write(path, {"input": x} | TRACE)
    refused(path, "input", "[0, 5]", str(value))
    with pytest.raises(BadInput) as error:
        check_input(NETWORK, x, "here")
    one_line(error, "here: input", "[0, 5]", str(value))


def test_an_unsigned_input_beyond_64_bits_signed_is_refused(path: Path) -> None:
    x = X.astype(np.uint64)
    x[0, 0, 0] = 2**64 - 1
    write(path, {"input": x} | TRACE)
    refused(path, "input", str(2**64 - 1))


# ---- the comparison


def differing(*places: tuple[str, int, int, int]) -> interpret.Trace:
    """The trace with 100 added at (record, sample, step, neuron)."""
    trace = {name: values.copy() for name, values in TRACE.items()}
    for name, *place in places:
        trace[name][tuple(place)] += 100
    return trace


VALUES = sum(values.size for values in TRACE.values())


def test_equal_runs_are_good_and_all_values_are_counted() -> None:
    comparison = Comparison("interpreter")
    comparison.add(TRACE, TRACE)
    comparison.add(TRACE, {name: values.astype(np.int32) for name, values in TRACE.items()})
    assert comparison.good
    assert comparison.as_json() == {
        "executor": "interpreter", "samples": 8, "steps": 48, "values": 2 * VALUES, "mismatches": 0, "first": None
    }  # fmt: skip


def test_a_comparison_of_nothing_is_not_good() -> None:
    comparison = Comparison("nothing")
    assert not comparison.good
    comparison.add({"output": np.zeros((0, 6, 2), int)}, {"output": np.zeros((0, 6, 2), int)})
    assert not comparison.good
    assert comparison.values == comparison.samples == 0


@pytest.mark.parametrize(
    ("places", "first"),
    [
        ([("output", 1, 2, 1)], ("output", "output", 1, 2, 1)),
        ([("output", 0, 5, 0), ("hidden.u", 1, 0, 0)], ("output", "output", 0, 5, 0)),  # by sample
        ([("readout.u", 2, 3, 1), ("hidden.u", 2, 4, 0)], ("readout", "u", 2, 3, 1)),  # then by step
        ([("output", 2, 3, 0), ("readout.best", 2, 3, 1)], ("readout", "best", 2, 3, 1)),  # then by record
        ([("hidden.spike", 3, 5, 0), ("hidden.u", 3, 5, 0)], ("hidden", "u", 3, 5, 0)),
        ([("readout.u", 0, 0, 1), ("readout.u", 0, 0, 0)], ("readout", "u", 0, 0, 0)),  # then by neuron
    ],
)
def test_the_first_mismatch_is_first_by_sample_step_record_and_neuron(
    places: list[tuple[str, int, int, int]], first: tuple[str, str, int, int, int]
) -> None:
    comparison = Comparison("other")
    comparison.add(TRACE, differing(*places))
    layer, record, sample, step, neuron = first
    expected = int(TRACE["output" if record == "output" else f"{layer}.{record}"][sample, step, neuron])
    assert comparison.first is not None
    assert asdict(comparison.first) == {
        "sample": sample, "step": step, "layer": layer, "neuron": neuron, "expected": expected,
        "got": expected + 100, "record": record, "values": {},
    }  # fmt: skip
    assert not comparison.good
    assert comparison.mismatches == len(places)


def test_several_batches_add_up_and_the_first_mismatch_stays() -> None:
    comparison = Comparison("other")
    comparison.add(TRACE, TRACE)
    comparison.add(TRACE, differing(("output", 3, 0, 0), ("readout.u", 1, 5, 0)))
    comparison.add(TRACE, differing(("hidden.u", 0, 0, 0)))
    row = json.loads(json.dumps(comparison.as_json()))
    assert (row["samples"], row["steps"], row["values"], row["mismatches"]) == (12, 72, 3 * VALUES, 3)
    assert (row["first"]["sample"], row["first"]["step"], row["first"]["layer"]) == (4 + 1, 5, "readout")


@pytest.mark.parametrize(
    "got",
    [
        *(np.zeros(shape, np.int64) for shape in [(4, 6, 1), (4, 5, 2), (3, 6, 2), (4, 7, 2), (0, 6, 2), (4, 6), ()]),
        TRACE["output"].astype(float),
        TRACE["output"].astype(object),
    ],
    ids=lambda got: f"{got.dtype}{got.shape}",
)
def test_a_run_that_gives_no_integers_of_the_references_shape_is_an_executors_error(got: np.ndarray) -> None:
    for run in (TRACE | {"output": got}, {name: TRACE[name] for name in SIZES if name != "output"}):
        comparison = Comparison("other")
        with pytest.raises(ExecutorError) as error:
            comparison.add(TRACE, run)
        assert "output" in str(error.value)
        assert len(str(error.value).splitlines()) == 1
        assert comparison.first is None


def test_the_file_is_a_plain_archive_of_small_arrays(path: Path) -> None:
    path.write_bytes(dumps(X, TRACE))
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
        assert file.files == ["input", *SIZES]
        assert file["input"].dtype == file["hidden.spike"].dtype == np.uint8
        assert file["readout.best"].dtype.kind == "i"
    assert vectors.load(path, NETWORK)[1]["hidden.spike"].dtype == np.uint8

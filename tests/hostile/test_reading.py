"""Reading: marks and line ends of other editors, sizes that are only claimed, short messages, hostile files."""

import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from quantal.export import network_file
from quantal.export.build import Build
from quantal.qat.config import config_file
from quantal.qat.data import mat_file, vlen_rows
from quantal.qat.data.registry import load
from support.commands import NETWORK
from support.datasets import refuse
from support.reading import MiB, peak, refused

MARK = b"\xef\xbb\xbf"
ENDS: dict[str, Callable[[bytes], bytes]] = {
    "mark": lambda raw: MARK + raw,
    "CRLF": lambda raw: raw.replace(b"\n", b"\r\n"),
    "both": lambda raw: MARK + raw.replace(b"\n", b"\r\n"),
    "CR": lambda raw: raw.replace(b"\n", b"\r"),
}


@pytest.mark.parametrize("ends", ENDS)
def test_a_configuration_may_have_a_mark_and_any_line_ends(tmp_path: Path, ends: str) -> None:
    path = tmp_path / "net.toml"
    path.write_bytes(ENDS[ends](NETWORK.encode()))
    assert config_file.load(path) == config_file.loads(NETWORK, "net")
    assert config_file.loads("\ufeff" + NETWORK, "net") == config_file.loads(NETWORK, "net")


@pytest.mark.parametrize("ends", ENDS)
def test_a_build_whose_text_has_other_ends_says_so_and_runs(build: Build, tmp_path: Path, ends: str) -> None:
    for file in build.path.iterdir():
        raw = file.read_bytes()
        (tmp_path / file.name).write_bytes(raw if file.suffix in (".npz", ".onnx") else ENDS[ends](raw))
    opened = Build.open(tmp_path)
    assert network_file.digest(opened.proven) == network_file.digest(build.proven)
    how = {"mark": "only a byte order mark was added", "CR": "changed since the export"}
    for name in ("network.json", "model.h", "model_sim.py", "model_test.c"):
        (line,) = (line for line in opened.complaints if line.startswith(f"{tmp_path / name}: "))
        assert how.get(ends, "only line endings differ (CRLF)") in line
    assert len(opened.complaints) == 4


def test_text_of_16_bits_is_explained(tmp_path: Path) -> None:
    (tmp_path / "net.toml").write_bytes(NETWORK.encode("utf-16"))
    refused(lambda: config_file.load(tmp_path / "net.toml"), "net.toml", "UTF-16", "save it as UTF-8")


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("name", ["timeseries .ts", "nmnist labels", "dvs-gesture labels", "dvs-gesture trials"])
def test_a_table_may_have_a_mark_and_any_line_ends(readers: dict, name: str, ends: str) -> None:
    reader = readers[name]
    reader.file.write_bytes(reader.seeds[0].replace(b"\r", b""))
    expected = reader.read()
    reader.file.write_bytes(ENDS[ends](reader.seeds[0].replace(b"\r", b"")))
    found = reader.read()
    assert found.train.x.tolist() == expected.train.x.tolist()
    assert found.train.y.tolist() == expected.train.y.tolist()


# ---- what is refused


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "../x", "x/y", ".", "..", "", "n" * 5000, "a b", "é"])
def test_a_manifest_lists_plain_names(build: Build, tmp_path: Path, name: str) -> None:
    for file in build.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((tmp_path / "MANIFEST.json").read_text())
    manifest["files"][name] = "sha256:0"
    (tmp_path / "MANIFEST.json").write_text(json.dumps(manifest))
    line = refused(lambda: Build.open(tmp_path), "MANIFEST.json: files: expected plain file names")
    assert line.isprintable()


def test_a_build_without_its_manifest_says_that(build: Build, tmp_path: Path) -> None:
    (tmp_path / "network.json").write_bytes((build.path / "network.json").read_bytes())
    refused(lambda: Build.open(tmp_path), "MANIFEST.json: missing", "is not whole")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with a name")
def test_what_is_no_file_is_not_waited_for(build: Build, tmp_path: Path) -> None:
    for file in build.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for name in ("model.h", "MANIFEST.json", "vectors.npz", "network.json"):
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
        refused(lambda: Build.open(tmp_path).vectors(), name, "not a regular file")
        (tmp_path / name).unlink()
        (tmp_path / name).write_bytes((build.path / name).read_bytes())
    (tmp_path / "zero").symlink_to("/dev/zero")
    refused(lambda: config_file.load(tmp_path / "zero"), "zero", "not a regular file")


def test_a_run_whose_samples_are_bytes_is_refused(readers: dict) -> None:
    reader = readers["samples.npz"]
    with zipfile.ZipFile(reader.file, "w") as archive:
        archive.writestr("x", b"bytes")
        archive.writestr("y", b"bytes")
    refused(reader.read, "samples.npz: x: missing")
    np.savez(reader.file, x=np.array([b"abc"]), y=np.array([b"abc"]))
    refused(reader.read, "samples.npz: x: expected integers", "S3")


def test_halves_are_numbers_like_others(tmp_path: Path) -> None:
    x, y = np.arange(60).reshape(20, 3), np.arange(20) % 2
    np.savez(tmp_path / "halves.npz", x=x.astype(np.float16), y=y.astype(np.float16))
    np.savez(tmp_path / "whole.npz", x=x, y=y)
    halves, whole = (load("npz", tmp_path / name) for name in ("halves.npz", "whole.npz"))
    assert halves.train.x.tolist() == whole.train.x.tolist()
    assert halves.test.y.tolist() == whole.test.y.tolist()
    np.savez(tmp_path / "halves.npz", x=np.full((20, 3), np.float16(np.inf)), y=y)
    refuse("npz", tmp_path / "halves.npz", "halves.npz: x: expected integers", "first inf at [0, 0]")
    np.savez(tmp_path / "halves.npz", x=np.where(x == 7, 0.5, x).astype(np.float16), y=y)
    refuse("npz", tmp_path / "halves.npz", "fractions", "first 0.5 at [2, 1]")


@pytest.mark.filterwarnings("error")
def test_series_of_huge_numbers(readers: dict) -> None:
    reader = readers["timeseries .ts"]
    reader.file.write_bytes(reader.seeds[0].replace(b"1,2,3", b"-1e308,2,1e308"))
    refused(reader.read, "Two_TRAIN.ts: @data", "1.8e308", "dimension 0")
    reader.file.write_bytes(reader.seeds[0].replace(b"1,2,3", b"-1e308,2,-3e307"))
    test = reader.file.with_name("Two_TEST.ts")
    whole = test.read_bytes()
    test.write_bytes(whole.replace(b"1,2,3", b"1e308,2,1e308"))
    assert reader.read().test.x[0, :, 0].tolist() == [255, 255, 255]
    test.write_bytes(whole)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("number", [1e30, 1e308, 2.0**53, -1.0, np.nan, np.inf, 128.0])
@pytest.mark.parametrize("column", [0, 1, 2])
def test_events_far_outside(readers: dict, column: int, number: float) -> None:
    events = np.array([[1, 2, 0, 0], [3, 3, 1, 20]], np.float64)
    events[1, column] = number
    reader = readers["dvs-gesture .npy"]
    np.save(reader.file, events)
    refused(reader.read, "0.npy: events: expected")


def test_hdf5_without_values(readers: dict) -> None:
    h5py = pytest.importorskip("h5py")
    reader = readers["shd .h5"]
    vlen = h5py.vlen_dtype(np.float16)
    cases = {
        "labels: expected one dimension, got none": lambda file: file.create_dataset("labels", data=h5py.Empty("i8")),
        "labels: expected 10000000000 rows": lambda file: file.create_dataset("labels", (10**10,), "i8"),
        "spikes/times: expected 10000000000 rows": lambda file: file.create_dataset("spikes/times", (10**10,), vlen),
        "labels: expected a dataset": lambda file: file.__setitem__("labels", h5py.ExternalLink("x.h5", "labels")),
    }
    for words, damage in cases.items():
        reader.file.write_bytes(reader.seeds[0])
        with h5py.File(reader.file, "a") as file:
            del file[words.partition(":")[0]]
            damage(file)
        assert reader.file.stat().st_size < 20_000
        assert peak(reader.read) < 8 * MiB
        refused(reader.read, f"shd_train.h5: {words}")


def _spoken(path: Path, options: dict) -> None:
    """As test_spike_data writes them, with those options of HDF5, and room for more rows in the last chunk."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, kind in (("times", np.float16), ("units", np.uint16)):
            rows = file.create_dataset(f"spikes/{name}", (7,), h5py.vlen_dtype(kind), **options)
            for n in range(7):
                rows[n] = np.arange(n, dtype=kind) / 8
        file["labels"] = np.arange(7)


STORED = ({}, {"chunks": (3,)}, {"chunks": (4,), "maxshape": (None,)})


@pytest.mark.parametrize("options", STORED, ids=range(len(STORED)))
def test_rows_of_hdf5_that_claim_more_than_the_file_are_refused_before_they_are_read(
    readers: dict, options: dict
) -> None:
    """HDF5 takes 4 GiB, and 20 seconds, before it notices."""
    reader = readers["shd .h5"]
    other = reader.file.with_name("shd_test.h5")
    for path in (reader.file, other):
        _spoken(path, options)
    dataset = reader.read()
    assert dataset.train.x.sum() == dataset.test.x.sum() > 0
    raw = other.read_bytes()
    at = next(
        at
        for at in range(len(raw) - 16)
        if raw[at : at + 4] == b"\5\0\0\0" and 0 < int.from_bytes(raw[at + 4 : at + 12], "little") < len(raw)
    )
    for length in (10**6, 2**31 - 1, 2**32 - 1):
        reader.file.write_bytes(raw[:at] + length.to_bytes(4, "little") + raw[at + 4 :])
        refused(reader.read, "shd_train.h5: spikes/", "rows that the file has room for", f"{length:,} values in row 5")


def test_references_are_uncompressed_as_hdf5_compresses_them() -> None:
    """The library that comes with h5py reads compressed references, and writes none any more."""
    raw = np.arange(96, dtype=np.uint8)
    shuffled = raw.reshape(-1, 16).T.tobytes()
    assert vlen_rows.undone(vlen_rows.SHUFFLE, shuffled, 96, 16) == raw.tobytes()
    assert vlen_rows.undone(vlen_rows.DEFLATE, zlib.compress(shuffled), 96, 16) == shuffled
    assert len(vlen_rows.undone(vlen_rows.DEFLATE, zlib.compress(bytes(MiB)), 96, 16)) == 96
    assert vlen_rows.undone(vlen_rows.CHECKSUM, shuffled + b"abcd", 96, 16) == shuffled


# ---- MATLAB


@pytest.mark.parametrize("packed", [False, True])
def test_arrays_of_matlab_are_those_that_scipy_reads(packed: bool) -> None:
    rng = np.random.default_rng(0)
    kinds = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "?")
    arrays: dict[str, object] = {f"v{n}": (rng.random((3, 4, 5)) * 99).astype(kind) for n, kind in enumerate(kinds)}
    arrays |= {"scalar": 3.5, "large": rng.random((40, 50, 60)), "empty": np.zeros((0, 3)), "whole": np.arange(9.0)}
    stream = io.BytesIO()
    savemat(
        stream, arrays | {"text": "abc", "z": np.ones(3) * 1j, "c": np.array([1, "a"], object)}, do_compression=packed
    )
    expected = loadmat(io.BytesIO(stream.getvalue()))
    found = {array.name: array for array in mat_file.arrays(stream.getvalue())}
    assert {name for name, array in found.items() if array.numeric} == set(arrays)
    for name in arrays:
        assert found[name].read().tolist() == expected[name].tolist()

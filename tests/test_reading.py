"""Reading: marks and line ends of other editors, sizes that are only claimed, short messages, hostile files."""

import gzip
import io
import json
import os
import struct
import sys
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from conftest import one_line
from networks import input_for, random_program, write
from quantal.export import network_file
from quantal.export.base import reading
from quantal.export.base.errors import BadInput, listed, named, shown
from quantal.export.build import Build
from quantal.export.ir.check import check
from quantal.export.ir.network import Layer, StateVar
from quantal.export.ir.network import Network as Program
from quantal.export.ir.ops import Add, Input, Lookup, State, Step
from quantal.export.proof.intervals import prove
from quantal.export.verify.vectors import load as load_vectors
from quantal.qat.config import config_file
from quantal.qat.config.schema import Config, Encoder, Task, Training
from quantal.qat.config.schema import Layer as LayerConfig
from quantal.qat.data import mat_file, vlen_rows
from quantal.qat.data.registry import load
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.training.run import Run
from scipy.io import loadmat, savemat
from test_cli import NETWORK, quantal
from test_data import refuse

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import hostile
import mutations
from fuzz_readers import complaint

MARK = b"\xef\xbb\xbf"
ENDS: dict[str, Callable[[bytes], bytes]] = {
    "mark": lambda raw: MARK + raw,
    "CRLF": lambda raw: raw.replace(b"\n", b"\r\n"),
    "both": lambda raw: MARK + raw.replace(b"\n", b"\r\n"),
    "CR": lambda raw: raw.replace(b"\n", b"\r"),
}
MiB = 1 << 20


def peak(act: Callable[[], object]) -> int:
    """The bytes of memory that it took at most, numpy's included; what it refuses is fine."""
    tracemalloc.start()
    try:
        act()
    except BadInput:
        pass
    finally:
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return taken


def refused(act: Callable[[], object], *words: str) -> str:
    """The short line with which it is refused."""
    with pytest.raises(BadInput) as error:
        act()
    line = one_line(error, *words)
    assert len(line) < 500
    return line


# ---- marks and line ends


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    program = random_program(1)
    return write(program, tmp_path_factory.mktemp("reading") / "build", "model", input_for(program, 5, 3))


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
    assert network_file.digest(opened.network) == network_file.digest(build.network)
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


# ---- sizes that are only claimed

POOL = {"op": "SUMPOOL", "x": 0, "shape": "1 1024 1024", "stride": "1 1", "interval": [0, 1]}


@pytest.mark.parametrize("side", [3000, 4000, 60_000])
def test_a_window_larger_than_its_network_is_refused_before_it_is_gathered(side: int) -> None:
    """A file of a kilobyte that would take 312 MiB, growing with the square."""
    padding = -(-(side - 1024) // 2)
    text = json.dumps({
        "format": network_file.FORMAT, "arithmetic": network_file.ARITHMETIC, "name": "n", "digest": "",
        "input": {"size": 1024**2, "lo": 0, "hi": 1, "dtype": "", "encoding": {}},
        "layers": [{
            "name": "a", "size": (1025 + 2 * padding - side) ** 2, "semantics": {}, "states": [], "weights": {},
            "output": 1, "output_name": "sum", "ops": [
                {"op": "INPUT", "source": "input", "interval": [0, 1]},
                POOL | {"kernel": f"{side} {side}", "padding": f"{padding} {padding}"},
            ],
        }],
    })  # fmt: skip
    assert len(text) < 1500
    assert peak(lambda: network_file.loads(text, "net.json")) < 4 * MiB
    refused(lambda: network_file.loads(text, "net.json"), "net.json: layer a: ops[1] (SUMPOOL): kernel", "8,388,608")


def test_a_configuration_says_how_large_its_windows_may_be() -> None:
    conv = 'connection = "conv"\nchannels = 1\nshape = [1, 8, 8]\nkernel = [8000]\npadding = [7999]'
    text = NETWORK.replace("size = 12\nrecurrent = true", conv)
    refused(lambda: config_file.loads(text, "net.toml"), "net.toml: layer[0]: kernel: 8000 by 8000", "8,388,608")


def _network(ops: int, size: int, delay: int = 1) -> Program:
    chain = (Input("input"), State("u"), *(Add(index + 1, 0) for index in range(ops)))
    state = StateVar("u", 0, 0, 0, 1, delay=delay)
    return Program("n", size, 0, 0, {}, (Layer("a", size, {}, chain, (state,), {}, 1, "o"),))


def test_many_ops_of_many_neurons_and_long_delays_are_refused_before_they_are_proven() -> None:
    check(_network(500, 60_000), "net.json")
    refused(lambda: check(_network(600, 60_000), "net.json"), "net.json: layers", "36,120,000 values")
    check(_network(1, 4000, delay=4096), "net.json")
    refused(lambda: check(_network(1, 5000, delay=4096), "net.json"), "net.json: layers", "20,480,000 states")


def _zeros(path: Path, name: str, shape: tuple[int, ...]) -> None:
    """An .npz whose array of zeros is a thousandth of what it says."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive, archive.open(name, "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for _ in range(int(np.prod(shape)) // MiB):
            file.write(bytes(MiB))


def test_an_archive_is_not_unpacked_before_its_shapes_are_right(build: Build, readers: dict, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    reads = (lambda: load_vectors(path, build.network), lambda: load("npz", path), lambda: load("braille", path))
    for name in ("input.npy", "x.npy", "frames.npy"):
        _zeros(path, name, (64, 16, MiB // 16))
        assert path.stat().st_size < MiB
        for read in reads:
            assert peak(read) < 2 * MiB
    samples = readers["samples.npz"]
    _zeros(samples.file, "x.npy", (64, 16, MiB // 16))
    assert peak(samples.read) < 2 * MiB


def test_an_array_of_more_than_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=np.zeros((MiB, 8), np.uint8), y=np.zeros(MiB, np.int64))
    monkeypatch.setenv(reading.MEMORY, "0.004")
    assert peak(lambda: load("npz", path)) < 12 * MiB
    refuse("npz", path, "x.npz: y would take", "GiB of memory, more than the 0.00")
    monkeypatch.setenv(reading.MEMORY, "1")
    assert len(load("npz", path).train.x) == MiB - MiB // 5
    for wrong in ("", "many", "-1", "0", "nan", "inf"):
        monkeypatch.setenv(reading.MEMORY, wrong)
        refuse("npz", path, f"{reading.MEMORY}: expected a number of GiB")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_headers_that_lie_are_refused(tmp_path: Path, method: int) -> None:
    whole = mutations.npy(np.zeros((20, 3), np.uint8))
    for old, new, words in (
        (b"(20, 3)", b"(99, 3)", "297 bytes"),
        (b"(20, 3)", b"(-2, 3)", "no plain numbers"),
        (b"(20, 3)", b"(2**9,)", ""),
        (b"|u1", b"|U0", "no plain numbers"),
        (b"|u1", b"|O8", "no plain numbers"),
        (b"\x93NUMPY\x01", b"\x93NUMPY\x03", "version"),
        (b"v\x00{", b"\xff\xff{", "header of 65535"),
    ):
        assert whole.count(old) == 1
        with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as archive:
            archive.writestr("x.npy", whole.replace(old, new))
        refused(lambda: reading.npz(tmp_path / "x.npz")["x"].read(), "x.npz: x: expected", words)
        (tmp_path / "x.npy").write_bytes(whole.replace(old, new))
        refused(lambda: reading.npy(tmp_path / "x.npy").read(), "x.npy: file: expected", words)


def test_directories_that_lie_are_refused(tmp_path: Path) -> None:
    """An archive may say of a member that it is larger than its compressed bytes can make it."""
    path = tmp_path / "x.npz"
    header = mutations.npy(np.zeros(0, np.uint8)).replace(b"(0,), }         ", b"(1073741824,), }")
    size = struct.pack("<I", len(header) + (1 << 30))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header)
        real = struct.pack("<I", archive.getinfo("x.npy").file_size)
    path.write_bytes(path.read_bytes().replace(real, size))
    assert peak(lambda: reading.npz(path)["x"].read()) < MiB
    refused(lambda: reading.npz(path)["x"].read(), "x.npz: x: expected", "cannot hold")


def test_every_kind_of_array_reads_as_numpy_reads_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kinds = ("u1", "<i2", ">i4", "f2", ">f8", "?", "U3", "S2", "c8")
    arrays = {f"{n}": (rng.random((3, 4, 5)) * 9).astype(kind) for n, kind in enumerate(kinds)}
    arrays |= {"fortran": np.asfortranarray(rng.random((3, 4))), "scalar": np.int64(3), "empty": np.zeros((0, 3))}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **arrays)
        stored = reading.npz(tmp_path / "x.npz")
        with np.load(tmp_path / "x.npz") as expected:
            assert stored.keys() == set(expected.files)
            for name in stored:
                found = stored[name].read()
                assert (found.shape, found.tolist()) == (expected[name].shape, expected[name].tolist())
                assert found.dtype.isnative
    for array in arrays.values():
        np.save(tmp_path / "x.npy", array)
        assert reading.npy(tmp_path / "x.npy").read().tolist() == np.load(tmp_path / "x.npy").tolist()


def test_a_stream_of_images_is_not_unpacked_beyond_what_its_header_says(readers: dict) -> None:
    reader = readers["mnist .gz"]
    header = gzip.decompress(reader.seeds[0])[:16]
    reader.file.write_bytes(gzip.compress(header + bytes(64 * MiB), 1, mtime=0))
    assert peak(reader.read) < 4 * MiB
    refused(reader.read, "train-images-idx3-ubyte.gz: payload: expected 80 bytes", "more than 80")
    sizes = struct.pack(">III", 60_000, 1000, 1000)
    reader.file.write_bytes(gzip.compress(header[:4] + sizes + bytes(MiB), mtime=0))
    assert peak(reader.read) < 4 * MiB
    refused(reader.read, "payload: expected 60000000000 bytes")


def test_weights_that_take_too_much_are_refused_with_the_memory(tmp_path: Path) -> None:
    text = NETWORK.replace("size = 12", "size = 32768")
    words = (
        "layer hidden: learning 1,073,774,592 weights",
        "would take 16.01 GiB of memory",
        "more than the 8 allowed",
    )
    refused(lambda: config_file.loads(text, "net.toml"), "net.toml", *words, reading.MEMORY)
    layers = (LayerConfig("hidden", 60_000), LayerConfig("o", 10, neuron="li"))
    config = Config(Task("npz"), Encoder(), layers, Training())
    refused(lambda: SpikingNetwork(config, 60_000, 1), "layer hidden: learning 3,600,000,000 weights", "53.65 GiB")


def test_a_configuration_cannot_ask_for_more_weights_than_its_checkpoint_holds(readers: dict) -> None:
    reader = readers["checkpoint.safetensors"]
    path = reader.file.with_name("network.toml")
    text = path.read_text()
    try:
        path.write_text(text.replace('name = "b"\nsize = 2', 'name = "b"\nsize = 8000'))
        assert "size = 8000" in path.read_text()
        refused(reader.read, "checkpoint.safetensors: holds", "weights of network.toml have more")
    finally:
        path.write_text(text)


def test_series_of_unequal_length_are_refused_before_they_are_filled_up(readers: dict) -> None:
    reader = readers["timeseries .ts"]
    rows = b"1:1:a\n" * 5_000 + b":".join([b",".join([b"1"] * 60_000)] * 2) + b":b\n"
    reader.file.write_bytes(reader.seeds[0][: reader.seeds[0].index(b"@data\n") + 6] + rows)
    assert peak(reader.read) < 64 * MiB
    refused(reader.read, "Two_TRAIN.ts: 5,001 samples of 60000 steps and 2 channels", "GiB")


def test_teachers_of_teachers_are_not_followed(readers: dict, tmp_path: Path) -> None:
    """A folder may hold itself."""
    run = readers["checkpoint.safetensors"].file.parent
    for file in ("network.toml", "checkpoint.safetensors"):
        (tmp_path / file).write_bytes((run / file).read_bytes())
    (tmp_path / "teacher").symlink_to(".")
    with mock.patch("quantal.qat.training.run.config_file.load", side_effect=config_file.load) as load_config:
        assert Run.open(tmp_path).teacher is not None
    assert load_config.call_count == 2


def test_memory_that_is_not_there_is_one_line(build: Build) -> None:
    with mock.patch("quantal.export.build.Build.open", side_effect=MemoryError):
        done = quantal("verify", str(build.path))
    assert (done.code, done.out, done.err) == (2, "", "quantal: there is not enough memory for this\n")


# ---- messages


VALUES = ["x" * 10**6, "\0" * 999, 10**4000, 1 << 20_000, [*range(10**5)], {"a": [*range(10**4)]}, b"x" * 999, "a\nb"]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_a_value_is_shown_short_and_in_one_line(value: object) -> None:
    assert len(shown(value)) <= 60
    assert shown(value).isprintable()
    deep: object = []
    for _ in range(10**4):
        deep = [deep]
    assert len(shown(deep)) <= 60
    assert shown([8]) == "[8]"
    assert len(named("k" * 10**5)) <= 60
    assert named("a\nb").isprintable()
    assert listed(range(10**4)).endswith(", ...")
    assert len(listed(range(10**4))) < 260


@pytest.mark.parametrize(
    "line",
    [
        f"{'.'.join('k' * 3000)} = 1",
        f'"{"k" * 3000}" = 1',
        f"size = 0x{'f' * 9000}",
        f"size = [{'1, ' * 3000}]",
        f'size = "{"x" * 3000}"',
        f"weights = [{'[' * 50}{']' * 50}]",
        f"inputs = ['{'x' * 3000}']",
        "recurent = true",
    ],
)
def test_a_configuration_is_refused_in_a_short_line(line: str) -> None:
    for table in ("[encoder]", "[[layer]]", "[training]"):
        refused(partial(config_file.loads, NETWORK.replace(table, f"{table}\n{line}", 1), "net.toml"), "net.toml: ")


def test_a_misspelt_field_is_told_the_name_it_is_nearest_to() -> None:
    text = NETWORK.replace("recurrent = true", "recurent = true")
    refused(lambda: config_file.loads(text, "net.toml"), "recurent: not a field, expected one of recurrent, ")


def test_a_key_of_many_parts_takes_no_time() -> None:
    """tomllib takes hours over a megabyte of them."""
    for part in ("k", '"="', "'#'", " k "):
        for text in (f"{'.'.join([part] * 100_000)} = 1", f"[{'.'.join([part] * 100_000)}]"):
            refused(partial(config_file.loads, f"{NETWORK}\n{text}", "net.toml"), "net.toml: ", "few parts")
    text = NETWORK.replace("epochs = 1", "epochs = 1  # " + "a.b " * 99)
    assert config_file.loads(text, "net.toml") == config_file.loads(NETWORK, "net.toml")


def test_thousands_of_layers_are_refused() -> None:
    layers = "".join(f'[[layer]]\nname = "a{n}"\nsize = 1\n' for n in range(5000))
    refused(lambda: config_file.loads(NETWORK + layers, "net.toml"), "net.toml: layer: expected at most 4096")


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1, 10**30])
def test_a_border_or_a_level_beyond_32_bits_is_refused_with_its_place(number: int) -> None:
    step, lookup = Step(0, (number,)), Lookup(0, (3, 4, number))
    for op, words in ((step, "STEP (value 1): borders"), (lookup, "LOOKUP (value 1): levels")):
        layer = Layer("a", 1, {}, (Input("input"), op), (), {}, 1, "o")
        refused(partial(prove, Program("n", 1, 0, 1, {}, (layer,))), f"layer a: {words}: {number} is beyond 32 bits")


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


# ---- hostile files


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, hostile.Reader]:
    pytest.importorskip("h5py")
    return {reader.name: reader for reader in hostile.readers(tmp_path_factory.mktemp("readers"))}


@pytest.fixture(autouse=True)
def restored(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "readers" in request.fixturenames:
        for reader in request.getfixturevalue("readers").values():
            reader.file.write_bytes(reader.seeds[0])


@pytest.mark.parametrize(
    "name",
    [
        *("network.toml", "network.json", "MANIFEST.json", "vectors.npz", "samples.npz", "checkpoint.safetensors"),
        *(
            "metrics.jsonl",
            "npz",
            "braille",
            "mnist",
            "mnist .gz",
            "speech .wav",
            "timeseries .ts",
            "timeseries targets",
        ),
        "qtdb .mat",
        *("nmnist .bs2", "nmnist labels", "dvs-gesture .aedat", "dvs-gesture labels", "dvs-gesture trials"),
        *("dvs-gesture .npy", "shd .h5"),
    ],
)
def test_hostile_files_are_read_or_refused_in_a_short_line(
    readers: dict[str, hostile.Reader], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first few of the inputs of benchmarks/fuzz_readers.py, which tries millions."""
    monkeypatch.setenv(reading.MEMORY, "0.25")
    reader = readers[name]
    for number in range(60):
        content = reader.input(number)
        assert content == reader.input(number)
        reader.file.write_bytes(content)
        said_no, wrong = complaint(reader)
        assert wrong == "", f"input {number}"
        assert number >= len(reader.seeds) or not said_no or name == "speech .wav"  # of which one is in real numbers


# ---- what the fuzzer found


def test_an_empty_file_is_read_without_room_for_a_large_one(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    tracemalloc.start()
    assert reading.content(tmp_path / "empty", reading.LARGE_TEXT) == b""
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_delay_of_thousands_of_digits_is_one_short_line() -> None:
    text = '[task]\nname = "npz"\n[encoder]\nsteps = 3\n[[layer]]\nname = "a"\nsize = 3\nneuron = "li"\n'
    with pytest.raises(BadInput) as error:
        config_file.loads(text + f"delays = [0, 0x{'f' * 5000}]\n", "net.toml")
    assert len(one_line(error, "net.toml", "delays")) < 300


def test_floats_without_a_meaning_in_64_bits_are_refused_as_others_are(tmp_path: Path) -> None:
    odd = np.frombuffer(b"\x01\x00\xa0\x7f" * 12, np.float32).reshape(3, 4)  # a NaN that signals
    for part in ("Train", "Test"):
        (tmp_path / f"ibmGesture{part}" / "u").mkdir(parents=True)
        np.save(tmp_path / f"ibmGesture{part}" / "u" / "0.npy", odd)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadInput) as error:
            load("dvs-gesture", tmp_path)
    one_line(error, "0.npy", "events", "finite")

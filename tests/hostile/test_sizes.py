"""Sizes that are only claimed are refused before the memory is taken."""

import gzip
import json
import struct
import zipfile
from pathlib import Path
from unittest import mock

import mutations
import numpy as np
import pytest

from quantal.export import network_file
from quantal.export.base import reading
from quantal.export.build import Build
from quantal.export.ir.check import check
from quantal.export.ir.network import Layer, StateVar
from quantal.export.ir.network import Network as Program
from quantal.export.ir.ops import Add, Input, State
from quantal.export.verify.vectors import load as load_vectors
from quantal.qat.config import config_file
from quantal.qat.config.parts.network import Config, Direct, Task
from quantal.qat.config.parts.training import Bptt
from quantal.qat.data.registry import load
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.training.run import Run
from support.commands import NETWORK, quantal
from support.datasets import refuse
from support.layers import a_layer
from support.reading import MiB, peak, refused

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
    refused(lambda: config_file.loads(text, "net.toml"), "net.toml", "layer[0]: kernel: 8000 by 8000", "8,388,608")


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
    layers = (a_layer("hidden", 60_000), a_layer("o", 10, neuron="li"))
    config = Config(task=Task(name="npz"), encoder=Direct(), layers=layers, training=Bptt())
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

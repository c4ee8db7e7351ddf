"""Hostile files are read or refused in a short line; what the fuzzer found stays found."""

import tracemalloc
import warnings
from pathlib import Path

import hostile
import numpy as np
import pytest
from fuzz_readers import complaint

from quantal.export.base import reading
from quantal.export.base.errors import BadInput
from quantal.qat.config import config_file
from quantal.qat.data.registry import load
from support.messages import one_line


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

"""Files of a run and of a build, damaged: one line that names the file and the field."""

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from support.commands import CHECKPOINT, COST, EXPORT, NETWORK, RESUME, TRAIN, VERIFY, contents, quantal, refused
from support.damage import flipped, spoil

FILES = {
    CHECKPOINT: (EXPORT, RESUME, "verify build --on interpreter --run run"),
    "run/network.toml": (EXPORT, RESUME),
    "run/samples.npz": (EXPORT, "verify build --on interpreter --run run"),
    "build/network.json": (VERIFY, COST),
    "build/MANIFEST.json": (VERIFY, COST),
    "build/vectors.npz": (VERIFY, COST),
    "build/digits.h": (COST,),
    "build/digits_sim.py": (COST,),
    "build/digits_test.c": (COST,),
    "build/digits.onnx": (COST,),
}
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "one byte": lambda content: content[:1],
    "third": lambda content: content[: len(content) // 3],  # of a network.toml: a hidden layer alone
    "random": lambda content: np.random.default_rng(0).bytes(len(content)),
    "flipped": lambda content: flipped(content, len(content) // 2 if content.startswith(b"PK") else 20, 1),
    "JSON": lambda content: b'{"files": {"../../x": "sha256:0"}, "format": []}',
    "deep": lambda content: b"[" * 100_000,
    "zip": lambda content: b"PK\x03\x04" + content[4 : len(content) // 3],
}


@pytest.mark.parametrize("damage", [*DAMAGE, "missing", "folder"])
@pytest.mark.parametrize("file", FILES)
def test_damaged_files(place: Path, file: str, damage: str) -> None:
    path = place / file
    content = path.read_bytes()
    if damage in DAMAGE:
        path.write_bytes(DAMAGE[damage](content))
        assert path.read_bytes() != content
    else:
        path.unlink()
    if damage == "folder":
        path.mkdir()
    for command in FILES[file]:
        refused(place, command, path.name)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    file=st.sampled_from([name for name in FILES if not name.endswith((".h", ".c", ".onnx"))]),
    position=st.integers(0, 100_000) | st.integers(0, 300),
    mask=st.integers(1, 255),
)
def test_whatever_byte_is_damaged_there_is_an_answer(place: Path, file: str, position: int, mask: int) -> None:
    """A damaged weight of a run is another weight: nobody can know. But there is no traceback, and no half a build."""
    path = place / file
    content, before = path.read_bytes(), contents(place)
    path.write_bytes(flipped(content, position % len(content), mask))
    try:
        executor = "simulator" if file.endswith("_sim.py") else "interpreter"
        done = quantal(*f"verify build --on {executor}{' --run run' * file.startswith('run')}".split())
        assert done.code in (0, 1, 2)
        assert all(line.startswith("quantal: ") for line in done.err.splitlines())
        assert (done.code == 0) == (done.err == "")
        if done.code == 2:
            assert len(done.err.splitlines()) == 1
            assert path.parent.name in done.err or path.name in done.err
        if file.startswith("build") and path.name != "MANIFEST.json":
            assert done.code != 0
    finally:
        path.write_bytes(content)
    assert contents(place) == before


def change(path: str, key: str, spoil: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Replaces a tensor of a checkpoint."""
    tensors = load_file(path)
    save_file(tensors | {key: spoil(tensors[key]).contiguous()}, path)


@pytest.mark.parametrize(
    ("tensor", "spoil", "words"),
    [
        ("network.layers.0.weight", lambda t: t * np.nan, "NaN"),
        ("network.layers.0.recurrent", lambda t: t / 0, "infinity"),
        ("network.layers.1.bias", lambda t: t - np.inf, "infinity"),
        ("adam.layers.1.decay.exp_avg", lambda t: t * np.nan, "NaN"),
        ("network.layers.0.weight", lambda t: t.double(), "float32 float64"),
        ("network.layers.0.weight", lambda t: t[:, 1:], "(12, 64) (12, 63)"),
        ("network.layers.0.weight", lambda t: t[1:], "(12, 64) (11, 64)"),
        ("network.layers.1.weight", lambda t: t.T, "(10, 12) (12, 10)"),
        ("network.layers.0.threshold", lambda t: t[0], "(12,) ()"),
        ("adam.layers.0.bias.exp_avg_sq", lambda t: t[1:], "(12,) (11,)"),
        ("adam.layers.0.bias.exp_avg_sq", lambda t: t - 1, "no negative"),
        ("adam.layers.0.bias.step", lambda t: t * 0 - 1, "no negative"),
        ("epochs_done", lambda t: t * 0 - 1, "no negative"),
        ("channels", lambda t: t * 0, "1..65535"),
        ("channels", lambda t: t + 2**40, "1..65535"),
        ("channels", lambda t: t.reshape(1), "1..65535"),
        ("channels", lambda t: t.double(), "1..65535"),
        ("maximum", lambda t: t * 0, "1..65535"),
        ("maximum", lambda t: -t, "1..65535"),
    ],
)
def test_tensors(place: Path, tensor: str, spoil: Callable[[torch.Tensor], torch.Tensor], words: str) -> None:
    change(CHECKPOINT, tensor, spoil)
    for command in (EXPORT, RESUME):
        refused(place, command, f"{CHECKPOINT}: {tensor}: expected" if "(" in words else tensor, *words.split())


@pytest.mark.parametrize(
    ("tensor", "spoil", "words"),
    [
        ("network.layers.0.unit_gain", torch.zeros_like, "layer hidden: scale: positive"),
        ("network.layers.0.unit_gain", lambda t: -t, "layer hidden: scale: positive"),
        ("network.layers.1.unit_start", torch.zeros_like, "layer readout: scale: positive"),
        ("network.layers.1.unit_start", lambda t: -t, "layer readout: scale: positive"),
        ("network.layers.0.threshold", torch.zeros_like, "layer hidden: threshold: positive"),
        ("network.layers.0.threshold", lambda t: -t, "layer hidden: threshold: positive"),
        ("network.layers.0.shifts", lambda t: t * 0 - 1, "layer hidden: shifts: 0 31"),
        ("network.layers.0.shifts", lambda t: t * 0 + 32, "layer hidden: shifts: 0 31"),
        ("network.layers.0.shifts", lambda t: t * 0 + 2**62, "layer hidden: shifts: 0 31"),
        ("network.layers.0.bias", lambda t: t + 1e38, "layer hidden, neuron 0: 32 bits"),
        ("network.layers.1.bias", lambda t: t - 1e38, "layer readout, neuron 0: 32 bits"),
        ("network.layers.0.unit_gain", lambda t: t * 1e-38, "layer hidden, neuron 0: 32 bits"),
    ],
)
def test_scales_thresholds_and_biases(
    place: Path, tensor: str, spoil: Callable[[torch.Tensor], torch.Tensor], words: str
) -> None:
    change(CHECKPOINT, tensor, spoil)
    for command in (EXPORT, RESUME):
        refused(place, command, *words.split())


def test_checkpoints_of_other_networks(place: Path) -> None:
    tensors = load_file(CHECKPOINT)
    save_file(tensors | {"extra": torch.zeros(1)}, CHECKPOINT)
    refused(place, EXPORT, CHECKPOINT, "extra: not a tensor of this network")
    for missing in ("maximum", "network.layers.0.weight", "network.layers.0.shifts", "adam.layers.1.bias.step"):
        save_file({name: tensor for name, tensor in tensors.items() if name != missing}, CHECKPOINT)
        refused(place, EXPORT, CHECKPOINT, missing)
    save_file(tensors, CHECKPOINT)
    text = Path("run/network.toml").read_text()
    for old, new, tensor in (
        ("size = 12", "size = 13", "network.layers.0.weight"),
        ("recurrent = true", "recurrent = false", "recurrent"),
        ('kind = "direct"', 'kind = "delta"', "network.layers.0.weight"),
        ('name = "readout"\nsize = 10', 'name = "readout"\nsize = 11', "network.layers.1"),
    ):
        assert text.count(old) == 1
        Path("run/network.toml").write_text(text.replace(old, new))
        refused(place, EXPORT, CHECKPOINT, tensor)


def test_a_checkpoint_cannot_ask_for_more_memory_than_it_fills(place: Path) -> None:
    change(CHECKPOINT, "channels", lambda t: t * 0 + 65535)
    text = Path("run/network.toml").read_text()
    Path("run/network.toml").write_text(
        text.replace("size = 12", "size = 65536").replace("recurrent = true", "recurrent = false")
    )
    with mock.patch("quantal.qat.training.run.SpikingNetwork", side_effect=AssertionError):
        refused(place, EXPORT, CHECKPOINT, "network.layers.0.weight: expected (65536, 65535), got (12, 64)")


@dataclass
class Trap:
    """Unpickled, it leaves a file behind."""

    path: str

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def test_nothing_that_is_read_is_executed(place: Path) -> None:
    (place / "net.toml").write_text(NETWORK.replace("digits", "npz"))
    arrays = dict.fromkeys(("x", "y", "input"), np.array([Trap("sprung")], object))
    reads = {
        "data.npz": f"{TRAIN} --data data.npz",
        "build/vectors.npz": VERIFY,
        "run/samples.npz": EXPORT,
        CHECKPOINT: RESUME,
    }
    for file, command in reads.items():
        with (place / file).open("wb") as stream:
            np.savez(stream, **arrays)
        refused(place, command, file)
        (place / file).write_bytes(pickle.dumps(Trap("sprung")))
        refused(place, command, file)
        torch.save({"x": Trap("sprung")}, file)
        refused(place, command, file)
    assert not (place / "sprung").exists()
    pickle.loads(pickle.dumps(Trap("sprung"))).close()
    assert (place / "sprung").exists()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": None}, "x: missing"),
        ({"y": None}, "y: missing"),
        ({"x": np.zeros((3, 4, 64))}, "x: integers float64"),
        ({"x": np.zeros((3, 4, 63), int)}, "x: 64 63"),
        ({"x": np.zeros((3, 64), int)}, "x: (3, 64)"),
        ({"x": np.zeros((0, 4, 64), int)}, "x: (0, 4, 64)"),
        ({"x": np.zeros((3, 0, 64), int)}, "x: (3, 0, 64)"),
        ({"x": np.full((32, 4, 64), 17)}, "x: 0..16 17"),
        ({"x": np.full((32, 4, 64), -1)}, "x: 0..16 -1"),
        ({"y": np.zeros(31, int)}, "y: 32 (31,)"),
        ({"y": np.zeros(32)}, "y: float64"),
    ],
)
def test_samples_of_a_run(place: Path, arrays: dict[str, np.ndarray | None], words: str) -> None:
    spoil("run/samples.npz", arrays)
    for command in (EXPORT, VERIFY + " --run run"):
        refused(place, command, "run/samples.npz", *words.split())


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"hidden.u": None}, "hidden.u exactly"),
        ({"more": np.zeros(3, int)}, "more exactly"),
        ({"input": np.zeros((32, 4, 64))}, "input: integers float64"),
        ({"input": np.full((32, 4, 64), 17)}, "input: [0, 16] [17, 17]"),
        ({"input": np.zeros((32, 4, 63), int)}, "input: 64 63"),
        ({"input": np.zeros((0, 4, 64), int)}, "at least one sample"),
        ({"output": np.zeros((32, 3, 10), int)}, "output: (32, 3, 10)"),
        ({"hidden.u": np.zeros((32, 4), int)}, "hidden.u: (32, 4)"),
        ({"hidden.u": np.full((32, 4, 12), "x")}, "hidden.u: integers"),
    ],
)
def test_vectors_of_a_build(place: Path, arrays: dict[str, np.ndarray | None], words: str) -> None:
    spoil("build/vectors.npz", arrays)
    refused(place, VERIFY, "build/vectors.npz", *words.split())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda m: m.pop("files"), "files: KeyError"),
        (lambda m: m.update(files=3), "files:"),
        (lambda m: m["files"].update({"../net.toml": "sha256:0"}), "files: '../net.toml'"),
        (lambda m: m["files"].update({"gone.h": "sha256:0"}), "gone.h: missing"),
        (lambda m: m["files"].pop("digits.h"), "files: digits.h: missing"),
        (lambda m: m["files"].pop("vectors.npz"), "files: vectors.npz: missing"),
        (lambda m: m["files"].clear(), "files: network.json: missing"),
    ],
)
def test_manifests(place: Path, spoil: Callable[[dict[str, Any]], object], words: str) -> None:
    path = place / "build" / "MANIFEST.json"
    manifest = json.loads(path.read_text())
    spoil(manifest)
    path.write_text(json.dumps(manifest))
    for command in (VERIFY, COST):
        refused(place, command, "MANIFEST.json", *words.split())

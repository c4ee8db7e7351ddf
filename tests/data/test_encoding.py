"""Encoders: against C built from the docstring formulas, and the properties that make them codes."""

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from quantal.export.base.errors import BadInput
from quantal.export.encoders import ENCODERS, hash32
from quantal.qat.data.encoding import encode, encoded_channels, encoded_maximum

C_SOURCE = """
#include <stdint.h>

uint32_t hash32(uint32_t seed, uint32_t n) {
    uint32_t h = n + seed * UINT32_C(0x9E3779B9);
    h ^= h >> 16;  h *= UINT32_C(0x7FEB352D);  h ^= h >> 15;  h *= UINT32_C(0x846CA68B);  h ^= h >> 16;
    return h;
}

void latency(const uint32_t *x, uint8_t *code, uint32_t T, uint32_t C, uint32_t maximum) {
    for (uint32_t t = 0; t < T; t++)
        for (uint32_t i = 0; i < C; i++)
            code[t * C + i] = x[i] > 0 && t == (maximum - x[i]) * (T - 1) / maximum;
}

void rate(const uint32_t *x, uint32_t stride, uint8_t *code, uint32_t T, uint32_t C, uint32_t maximum, uint32_t seed) {
    for (uint32_t t = 0; t < T; t++)
        for (uint32_t i = 0; i < C; i++) {
            uint32_t r = hash32(seed, t * C + i) >> 16;
            code[t * C + i] = r * maximum < x[t * stride + i] * UINT32_C(65536);
        }
}

void delta(const uint32_t *x, uint8_t *code, uint32_t *ref, uint32_t T, uint32_t C, uint32_t step) {
    for (uint32_t i = 0; i < C; i++) ref[i] = 0;
    for (uint32_t t = 0; t < T; t++)
        for (uint32_t i = 0; i < C; i++) {
            uint8_t *up = &code[t * 2 * C + i], *down = up + C;
            uint32_t v = x[t * C + i];
            *up = *down = 0;
            if (v >= ref[i] + step) { *up = 1; ref[i] += step; }
            else if (ref[i] >= v + step) { *down = 1; ref[i] -= step; }
        }
}
"""


@pytest.fixture(scope="module")
def c(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("c")
    source, library = folder / "encoders.c", folder / "encoders.so"
    source.write_text(C_SOURCE)
    compiler = ["cc"] if shutil.which("cc") else [sys.executable, "-m", "ziglang", "cc"]
    flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic", "-shared", "-fPIC"]
    subprocess.run([*compiler, *flags, "-o", str(library), str(source)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.hash32.restype = ctypes.c_uint32
    return loaded


def call(function: Callable[..., int], *arguments: np.ndarray | int) -> int:
    pointers = (a.ctypes.data_as(ctypes.c_void_p) if isinstance(a, np.ndarray) else a for a in arguments)
    return function(*(ctypes.c_uint32(p) if isinstance(p, int) else p for p in pointers))


def by_c(c: ctypes.CDLL, kind: str, x: np.ndarray, steps: int, maximum: int, seed: int, delta: int) -> np.ndarray:
    """encode() by the C formulas, a sample at a time."""
    channels = x.shape[-1]
    codes = np.full((len(x), steps, encoded_channels(kind, channels)), 255, np.uint8)
    for values, code in zip(np.ascontiguousarray(x, np.uint32), codes, strict=True):
        if kind == "latency":
            call(c.latency, values, code, steps, channels, maximum)
        elif kind == "rate":
            call(c.rate, values, channels if x.ndim == 3 else 0, code, steps, channels, maximum, seed)
        else:
            call(c.delta, values, code, np.empty(channels, np.uint32), steps, channels, delta)
    return codes


def inputs(maximum: int, *shape: int) -> np.ndarray:
    """Random integers 0..maximum with both ends among them, in the narrowest type."""
    x = np.random.default_rng(maximum).integers(0, maximum + 1, shape)
    x.flat[0], x.flat[-1] = 0, maximum
    return x.astype(np.min_scalar_type(maximum))


@pytest.mark.parametrize("maximum", [1, 2, 16, 255, 256, 1000, 65534, 65535])
@pytest.mark.parametrize(("steps", "channels"), [(1, 7), (2, 1), (25, 64), (64, 3)])
def test_codes_equal_c(c: ctypes.CDLL, maximum: int, steps: int, channels: int) -> None:
    frames, sequences = inputs(maximum, 9, channels), inputs(maximum, 9, steps, channels)
    for kind, x in (("latency", frames), ("rate", frames), ("rate", sequences), ("delta", sequences)):
        for seed, delta in ((0, 1), (1, maximum), (0xFFFFFFFF, (maximum + 3) // 4)):
            codes = encode(kind, x, steps=steps, maximum=maximum, seed=seed, delta=delta)
            assert codes.dtype == np.uint8
            np.testing.assert_array_equal(codes, by_c(c, kind, x, steps, maximum, seed, delta), strict=True)


def test_latency_equals_c_at_the_widest_products(c: ctypes.CDLL) -> None:
    x = np.array([[1, 2, 65534, 65535, 0]])
    codes = encode("latency", x, steps=65535, maximum=65535)
    np.testing.assert_array_equal(codes, by_c(c, "latency", x, 65535, 65535, 0, 1))


def test_hash_equals_c_and_never_collides(c: ctypes.CDLL) -> None:
    n = np.array([0, 1, 2, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32)
    for seed in (0, 1, 12345, 0xFFFFFFFF):
        assert hash32(seed, n).tolist() == [call(c.hash32, seed, int(v)) for v in n]
    assert len(np.unique(hash32(3, np.arange(1 << 16)))) == 1 << 16  # a bijection: no two counters collide


def test_direct_passes_values_on() -> None:
    frames, sequences = inputs(255, 5, 6), inputs(300, 5, 4, 6)
    codes = encode("direct", frames, steps=3, maximum=255)
    assert codes.dtype == np.uint8
    assert codes.shape == (5, 3, 6)
    assert (codes == frames[:, None]).all()
    wide = encode("direct", sequences, steps=4, maximum=300)
    assert wide.dtype == np.uint16
    np.testing.assert_array_equal(wide, sequences)


def test_latency_orders_values_by_time() -> None:
    codes = encode("latency", np.arange(17)[None], steps=16, maximum=16)[0]
    assert codes.sum(axis=0).tolist() == [0] + [1] * 16
    times = codes[:, 1:].argmax(axis=0)
    assert (np.diff(times) <= 0).all()
    assert times[-1] == 0


def test_rate_is_proportional_deterministic_and_independent_of_the_batch() -> None:
    x = np.arange(0, 256, 5)[None].repeat(2, axis=0)
    codes = encode("rate", x, steps=4000, maximum=255, seed=7)
    np.testing.assert_allclose(codes[0].mean(axis=0), x[0] / 255, atol=0.04)
    assert not codes[:, :, 0].any()
    assert codes[:, :, -1].all()
    assert (codes[0] == codes[1]).all()
    np.testing.assert_array_equal(codes, encode("rate", x, steps=4000, maximum=255, seed=7))
    assert (codes != encode("rate", x, steps=4000, maximum=255, seed=8)).any()
    sequences = np.repeat(x[:, None], 4000, axis=1)
    np.testing.assert_array_equal(codes, encode("rate", sequences, steps=4000, maximum=255, seed=7))


def test_delta_follows_the_value() -> None:
    x = np.array([[[0], [16], [50], [50], [50], [40], [20], [0], [0], [0]]])
    codes = encode("delta", x, steps=10, maximum=50, delta=16)[0]
    assert codes.tolist() == [[0, 0], [1, 0], [1, 0], [1, 0], [0, 0], [0, 0], [0, 1], [0, 1], [0, 1], [0, 0]]
    slow = np.clip(100 + np.cumsum(np.random.default_rng(0).integers(-3, 4, (4, 200, 5)), axis=1), 0, 150)
    slow[:, :40] = slow[:, 40:41]  # time enough to catch up with the start
    codes = encode("delta", slow, steps=200, maximum=255, delta=4).astype(int)
    followed = 4 * np.cumsum(codes[..., :5] - codes[..., 5:], axis=1)
    assert (np.abs(followed - slow)[:, 40:] < 4).all()
    assert not (codes[..., :5] & codes[..., 5:]).any()


@pytest.mark.parametrize("kind", ENCODERS)
def test_encoding_leaves_its_input_alone_and_keeps_its_promises(kind: str) -> None:
    x = inputs(20, 3, 6) if kind == "latency" else inputs(20, 3, 8, 6)
    before = x.copy()
    codes = encode(kind, x, steps=8, maximum=20)
    np.testing.assert_array_equal(x, before)
    assert codes.shape == (3, 8, encoded_channels(kind, 6))
    assert codes.max() <= encoded_maximum(kind, 20)
    assert codes.flags.writeable
    assert not np.shares_memory(codes, x)
    assert len(encode(kind, x[:0], steps=8, maximum=20)) == 0


FRAMES, SEQUENCES = np.ones((2, 3), np.uint8), np.ones((2, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("kind", "x", "options", "field"),
    [
        ("morse", FRAMES, {}, "kind: expected one of direct, latency, rate, delta, got 'morse'"),
        ("rate", FRAMES, {"steps": 0}, "steps: expected an integer 1..65535, got 0"),
        ("rate", FRAMES, {"steps": 65536}, "steps"),
        ("rate", FRAMES, {"steps": 2.0}, "steps"),
        ("rate", FRAMES, {"steps": True}, "steps"),
        ("rate", FRAMES, {"maximum": 0}, "maximum"),
        ("rate", FRAMES, {"maximum": 65536}, "maximum"),
        ("rate", FRAMES, {"seed": -1}, "seed"),
        ("rate", FRAMES, {"seed": 1 << 32}, "seed"),
        ("delta", SEQUENCES, {"delta": 0}, "delta"),
        ("delta", SEQUENCES, {"delta": 10}, "delta: expected an integer 1..9, got 10"),
        ("delta", SEQUENCES, {"delta": "many\nlines"}, "delta"),
        ("delta", FRAMES, {"delta": 1}, "x: expected sequences (N, T, C), got shape (2, 3)"),
        ("latency", SEQUENCES, {}, "x: expected frames (N, C)"),
        ("direct", FRAMES[0], {}, "x: expected frames (N, C) or sequences (N, T, C)"),
        ("direct", SEQUENCES, {"steps": 5}, "steps: expected the 4 of the sequences, got 5"),
        ("direct", FRAMES.astype(float), {}, "x: expected integers"),
        ("direct", FRAMES * 10, {}, "x: expected values 0..9, got 10..10"),
        ("direct", -FRAMES.astype(int), {}, "x: expected values 0..9, got -1..-1"),
    ],
)
def test_bad_input_is_one_line(kind: str, x: np.ndarray, options: dict, field: str) -> None:
    with pytest.raises(BadInput) as error:
        encode(kind, x, **{"steps": 4, "maximum": 9} | options)
    assert str(error.value).startswith(f"encoding: {field}" if kind == "morse" else f"encoding {kind}: {field}")
    assert len(str(error.value).splitlines()) == 1


def test_what_an_encoder_makes_of_channels_and_maximum() -> None:
    assert [encoded_channels(kind, 40) for kind in ENCODERS] == [40, 40, 40, 80]
    assert [encoded_maximum(kind, 255) for kind in ENCODERS] == [255, 1, 1, 1]
    for function in (encoded_channels, encoded_maximum):
        with pytest.raises(BadInput, match="kind"):
            function("morse", 1)

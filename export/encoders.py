"""The encoders that run on the device: from inputs 0..maximum to what enters the first layer at each step.

Pure integer arithmetic that fits uint32_t, so that C reproduces every bit from the formulas given here; training uses
them as they are. Shapes: frames (N, C) have no time, sequences (N, T, C) have one row per step, codes are
(N, steps, C').
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


def hash32(seed: int, n: np.ndarray) -> np.ndarray:
    """Counter-based 32-bit hash ('lowbias32'), uint32 of n's shape. All arithmetic is modulo 2**32:

    h = n + seed * 0x9E3779B9
    h ^= h >> 16;  h *= 0x7FEB352D;  h ^= h >> 15;  h *= 0x846CA68B;  h ^= h >> 16
    """
    h: np.ndarray = n.astype(np.uint32) + np.uint32(seed * 0x9E3779B9 & 0xFFFFFFFF)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        h ^= h >> np.uint32(shift)
        h *= np.uint32(factor)
    h ^= h >> np.uint32(16)
    return h


# The encoders share one signature: they are called through a table, with arguments that fit.


def direct(x: np.ndarray, steps: int, maximum: int, seed: int, delta: int) -> np.ndarray:
    """The integers themselves: code[t][i] = x[i] of a frame at every step, x[t][i] of a sequence."""
    codes = x if x.ndim == 3 else np.repeat(x[:, None], steps, axis=1)
    return codes.astype(np.uint8 if maximum < 256 else np.uint16)


def latency(x: np.ndarray, steps: int, maximum: int, seed: int, delta: int) -> np.ndarray:
    """One spike per channel, the earlier the larger its value; zero never fires.

    code[t][i] = x[i] > 0 && t == (maximum - x[i]) * (steps - 1) / maximum    (the quotient rounds down)
    """
    times = (maximum - x.astype(np.uint32)) * np.uint32(steps - 1) // np.uint32(maximum)
    times[x == 0] = steps  # a step that never comes
    spikes: np.ndarray = times[:, None] == np.arange(steps, dtype=np.uint32)[:, None]
    return spikes.view(np.uint8)


def rate(x: np.ndarray, steps: int, maximum: int, seed: int, delta: int) -> np.ndarray:
    """Spikes as frequent as the value is large: x / maximum of the steps on average, zero never, maximum always.

    r = hash32(seed, t * C + i) >> 16
    code[t][i] = r * maximum < v * 65536    with v = x[i] of a frame, x[t][i] of a sequence

    The thresholds depend on step and channel alone, so a sample's code does not depend on its place in the batch.
    """
    channels = x.shape[-1]
    r = hash32(seed, np.arange(steps * channels, dtype=np.uint32)).reshape(steps, channels) >> np.uint32(16)
    # a < v * 65536 exactly when a / 65536, rounded down, is below v: small integers, and no product per sample.
    limits = (r * np.uint32(maximum) >> np.uint32(16)).astype(np.uint16)
    return (limits < (x if x.ndim == 3 else x[:, None])).view(np.uint8)


def send_on_delta(x: np.ndarray, steps: int, maximum: int, seed: int, delta: int) -> np.ndarray:
    """Changes of a sequence: an up or a down spike, one a step at most, moves a reference by delta after the value.

    ref[i] = 0 at first; then at each step
        if      (x[t][i] >= ref[i] + delta) { code[t][i] = 1;      ref[i] += delta; }
        else if (ref[i] >= x[t][i] + delta) { code[t][C + i] = 1;  ref[i] -= delta; }
    """
    channels = x.shape[2]
    codes = np.zeros((len(x), steps, 2 * channels), np.uint8)
    reference = np.zeros((len(x), channels), np.int32)
    for t in range(steps):
        gap = x[:, t].astype(np.int32) - reference
        up, down = gap >= delta, gap <= -delta
        codes[:, t, :channels], codes[:, t, channels:] = up, down
        reference += delta * (up.astype(np.int32) - down)
    return codes


@dataclass(frozen=True)
class Encoder:
    """An encoder and what it takes and gives: inputs by ndim, output channels per input channel, spikes or values."""

    run: Callable[..., np.ndarray]
    takes: tuple[int, ...] = (2, 3)
    fan: int = 1
    spikes: bool = True


ENCODERS = {
    "direct": Encoder(direct, spikes=False),
    "latency": Encoder(latency, takes=(2,)),
    "rate": Encoder(rate),
    "delta": Encoder(send_on_delta, takes=(3,), fan=2),
}

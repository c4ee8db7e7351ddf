"""Integer encoders: from inputs 0..maximum to what enters the first layer at each step.

Pure integer arithmetic that fits uint32_t, so that C reproduces every bit from the formulas given here.
Shapes: frames (N, C) have no time, sequences (N, T, C) have one row per step, codes are (N, steps, C').
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from export.errors import BadInput, shown
from export.reading import check_memory

LIMIT = 65535
"""The largest maximum, step count and delta: what keeps every product below 2**32."""


def whole(where: str, field: str, value: object, low: int, high: int) -> int:
    """`value` as an int, or BadInput: `where` and `field` name it, low..high (inclusive) is what it may be."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise BadInput(f"{where}: {field}: expected an integer {low}..{high}, got {shown(value)}")
    return int(value)


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


# The encoders share one signature, for encode() calls them through a table after it has checked their arguments.


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

_SHAPES = {2: "frames (N, C)", 3: "sequences (N, T, C)"}


def _encoder(kind: str) -> Encoder:
    if kind not in ENCODERS:
        raise BadInput(f"encoding: kind: expected one of {', '.join(ENCODERS)}, got {shown(kind)}")
    return ENCODERS[kind]


def encoded_channels(kind: str, channels: int) -> int:
    """How many channels `kind` makes of `channels`; BadInput for an unknown kind."""
    return _encoder(kind).fan * channels


def encoded_maximum(kind: str, maximum: int) -> int:
    """The largest value in the codes of `kind`: 1 for spikes; BadInput for an unknown kind."""
    return 1 if _encoder(kind).spikes else maximum


def encode(kind: str, x: np.ndarray, *, steps: int, maximum: int, seed: int = 0, delta: int = 16) -> np.ndarray:
    """Codes (N, steps, encoded_channels(kind, C)) of frames (N, C) or sequences (N, steps, C) of integers 0..maximum.

    uint8, or uint16 where 'direct' passes on values above 255. `seed` matters to 'rate', `delta` (in units of x)
    to 'delta'. Raises BadInput for an unknown kind, a shape the kind does not take, and values out of range.
    """
    encoder, where = _encoder(kind), f"encoding {kind}"
    steps = whole(where, "steps", steps, 1, LIMIT)
    maximum = whole(where, "maximum", maximum, 1, LIMIT)
    seed = whole(where, "seed", seed, 0, 0xFFFFFFFF)
    if kind == "delta":
        delta = whole(where, "delta", delta, 1, maximum)  # above the maximum no change would ever be sent
    if x.ndim not in encoder.takes:
        raise BadInput(f"{where}: x: expected {' or '.join(_SHAPES[n] for n in encoder.takes)}, got shape {x.shape}")
    if x.ndim == 3 and x.shape[1] != steps:
        raise BadInput(f"{where}: steps: expected the {x.shape[1]} of the sequences, got {steps}")
    if steps * x.shape[-1] > 1 << 32:
        raise BadInput(f"{where}: x: expected steps * channels within 2**32, got {steps} * {x.shape[-1]}")
    channels = encoder.fan * x.shape[-1]
    check_memory(
        (2 * len(x) + 16) * steps * channels, where, f"{len(x)} samples of {steps} steps and {channels} channels"
    )
    if x.dtype.kind not in "biu":
        raise BadInput(f"{where}: x: expected integers, got {x.dtype}")
    if x.size and not 0 <= int(x.min()) <= int(x.max()) <= maximum:
        raise BadInput(f"{where}: x: expected values 0..{maximum}, got {int(x.min())}..{int(x.max())}")
    return encoder.run(x, steps, maximum, seed, delta)

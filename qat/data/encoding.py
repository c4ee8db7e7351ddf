"""Encodes inputs 0..maximum as export/encoders.py says, after checks of all that they are given."""

import numpy as np

from quantal.export.base.errors import BadInput, shown
from quantal.export.base.reading import check_memory
from quantal.export.encoders import ENCODERS, Encoder

LIMIT = 65535
"""The largest maximum, step count and delta: what keeps every product below 2**32."""


def whole(where: str, field: str, value: object, low: int, high: int) -> int:
    """`value` as an int, or BadInput: `where` and `field` name it, low..high (inclusive) is what it may be."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise BadInput(f"{where}: {field}: expected an integer {low}..{high}, got {shown(value)}")
    return int(value)


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

"""Parts of a split, in order."""

from collections.abc import Iterator

from quantal.qat.data.registry import Split

EVALUATION_BATCH = 250
CALIBRATION_SAMPLES = 128


def batches_of(split: Split, size: int) -> Iterator[Split]:
    """The split in order, `size` samples at a time."""
    for start in range(0, len(split.y), size):
        yield Split(split.x[start : start + size], split.y[start : start + size])


def calibration_sample(split: Split) -> Split:
    """CALIBRATION_SAMPLES of the split, evenly spread, or all."""
    every = max(1, len(split.y) // CALIBRATION_SAMPLES)
    return Split(split.x[::every][:CALIBRATION_SAMPLES], split.y[::every][:CALIBRATION_SAMPLES])

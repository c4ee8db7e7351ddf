"""Event augmentation: training samples are moved, jittered and thinned, anew in each epoch.

A count is so many events, each of them at a step and in a channel. A sample's random numbers follow from the seed, the
epoch and the sample's place in the training split, and from nothing else: not from the batch or the process it is in,
nor from the sitting, so that whatever is resumed or shared goes on to the same bytes.
"""

from dataclasses import dataclass

import numpy as np

from quantal.qat.config.parts.network import Config
from quantal.qat.config.parts.training import Augmentation
from quantal.qat.data.common import bad
from quantal.qat.data.registry import Dataset, Split

STREAM = 1  # of random numbers: without it, a sample's would be those of another use of the seed


def check(options: Augmentation, data: Dataset, task: str) -> None:
    """Raises BadInput unless the data are events that can be moved that far."""
    if options == Augmentation():
        return
    if data.plane is None:
        raise bad("augmentation", "task", f"one of events in sequences, got {task}, whose values are none")
    steps, widest = data.train.x.shape[1], max(data.plane[1:])
    if options.shift_space and widest == 1:
        raise bad(
            "augmentation", "shift_space", f"0, for the channels of {task} have no place, got {options.shift_space}"
        )
    for name, extent in (("shift_space", widest), ("shift_time", steps), ("jitter", steps)):
        if getattr(options, name) >= extent:
            raise bad("augmentation", name, f"less than the {extent} there are, got {getattr(options, name)}")


def augmented(data: Dataset, config: Config, epoch: int) -> Split:
    """The training split as it is in this epoch, the first being 0."""
    if config.augmentation == Augmentation() or data.plane is None:
        return data.train
    seed = (config.training.seed, epoch, STREAM)
    return _Augmented(data.train.x, data.train.y, config.augmentation, data.plane, data.maximum, seed)


@dataclass(frozen=True)
class _Augmented(Split):
    """A split whose samples are augmented when they are taken."""

    options: Augmentation
    plane: tuple[int, int, int]
    maximum: int
    seed: tuple[int, ...]

    def take(self, chosen: np.ndarray) -> Split:
        """The samples with these numbers, augmented."""
        taken = super().take(chosen)
        for n, number in enumerate(chosen):
            rng = np.random.default_rng((*self.seed, int(number)))
            moved = int(rng.integers(-self.options.shift_time, self.options.shift_time, endpoint=True))
            taken.x[n] = self._sample(taken.x[n], moved, rng)
            if taken.y.ndim == 2 and taken.y.dtype.kind == "i":  # labels of steps move along
                taken.y[n] = _moved(taken.y[n], moved)
        return taken

    def _sample(self, x: np.ndarray, moved: int, rng: np.random.Generator) -> np.ndarray:
        """x (steps, channels): its events `moved` by so many steps, and all else. What leaves is lost."""
        options, shape = self.options, (len(x), *self.plane)
        places = np.nonzero(x.reshape(shape))
        step, polarity, *place = (np.repeat(axis, x.reshape(shape)[places]) for axis in places)
        step = step + moved + rng.integers(-options.jitter, options.jitter, len(step), endpoint=True)
        kept = (step >= 0) & (step < len(x)) & (rng.random(len(step)) >= options.drop)
        for axis, extent in enumerate(self.plane[1:]):
            shift = rng.integers(-options.shift_space, options.shift_space, endpoint=True) if extent > 1 else 0
            place[axis] = place[axis] + shift
            kept &= (place[axis] >= 0) & (place[axis] < extent)
        where = np.ravel_multi_index([axis[kept] for axis in (step, polarity, *place)], shape)
        counts = np.bincount(where, minlength=x.size).reshape(x.shape)
        return np.minimum(counts, self.maximum)


def _moved(labels: np.ndarray, steps: int) -> np.ndarray:
    """Labels (steps,) so many steps later; those that come in do not count."""
    moved = np.full_like(labels, -1)
    if steps >= 0:
        moved[steps:] = labels[: len(labels) - steps]
    else:
        moved[:steps] = labels[-steps:]
    return moved

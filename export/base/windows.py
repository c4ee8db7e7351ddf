"""Convolution windows: which inputs of a plane each output position sees."""

from dataclasses import dataclass

import numpy as np

from quantal.export.base.errors import BadInput
from quantal.export.base.fixed import Ints

MOST_SEEN = 1 << 23
"""How many values the positions of a window see at most, over all channels: what is gathered of them takes 64 MiB."""


@dataclass(frozen=True)
class Window:
    """A kernel that moves over planes: shape (channels, height, width) of what it reads; the others (down, across).

    Values of a layer are in the order channel, row, column. One dimension has a height of 1.
    """

    shape: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many values it reads."""
        return int(np.prod(self.shape))

    @property
    def out(self) -> tuple[int, int]:
        """How many positions it takes, down and across."""
        across = zip(self.shape[1:], self.kernel, self.stride, self.padding, strict=True)
        down, right = ((length + 2 * pad - kernel) // step + 1 for length, kernel, step, pad in across)
        return down, right

    @property
    def positions(self) -> int:
        """How many positions it takes in all."""
        return self.out[0] * self.out[1]

    @property
    def fits(self) -> bool:
        """Whether there is a position, and each sees something."""
        across = zip(self.shape[1:], self.kernel, self.padding, strict=True)
        return all(pad < kernel <= length + 2 * pad for length, kernel, pad in across)

    def check_work(self, where: str) -> None:
        """Raises BadInput where its positions see more than MOST_SEEN values."""
        seen = self.shape[0] * self.positions * self.kernel[0] * self.kernel[1]
        if seen > MOST_SEEN:
            raise BadInput(
                f"{where}: kernel: {self.kernel[0]} by {self.kernel[1]} at {self.positions} places of {self.shape[0]} "
                f"channels see {seen:,} values a step, expected at most {MOST_SEEN:,}"
            )

    def taps(self) -> Ints:
        """(positions, kernel): where in a plane each position's inputs lie; height · width for what is padding."""
        _, height, width = self.shape
        rows, columns = (
            np.arange(out)[:, None] * step - pad + np.arange(kernel)
            for out, step, pad, kernel in zip(self.out, self.stride, self.padding, self.kernel, strict=True)
        )
        row, column = rows[:, None, :, None], columns[None, :, None, :]
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        found: Ints = np.where(inside, row * width + column, height * width).reshape(self.positions, -1)
        return found

    def gathered(self, x: Ints) -> Ints:
        """x (..., channels · height · width) → (..., channels, positions, kernel), 0 where it is padding."""
        planes = x.reshape(*x.shape[:-1], self.shape[0], -1)
        return np.concatenate([planes, np.zeros_like(planes[..., :1])], axis=-1)[..., self.taps()]

    def products(self, x: Ints, weights: Ints, groups: int) -> Ints:
        """x (..., inputs) by kernels (channels out, channels in / groups · kernel) → (..., channels out · positions).

        The first group's share of the outputs sees the first group's share of the inputs, and so on.
        """
        seen = self.gathered(x)
        kernels = weights.reshape(groups, len(weights) // groups, -1)
        depth = kernels.shape[2]
        columns = np.moveaxis(seen.reshape(*x.shape[:-1], groups, -1, *seen.shape[-2:]), -2, -3)
        found = columns.reshape(*x.shape[:-1], groups, self.positions, depth) @ np.swapaxes(kernels, 1, 2)
        return np.swapaxes(found, -1, -2).reshape(*x.shape[:-1], -1)

    def fan_out(self) -> Ints:
        """(height · width,): how many positions see each input of a plane."""
        return np.bincount(self.taps().reshape(-1), minlength=self.shape[1] * self.shape[2] + 1)[:-1]

"""Torch's reading of export/base/windows.py: what windows see of planes, as matrix products, exact on integers.

Libraries' own convolutions may go by transforms that round.
"""

import torch
from torch import Tensor
from torch.nn import functional

from quantal.export.base.windows import Window


def seen(x: Tensor, window: Window) -> Tensor:
    """x (..., channels · height · width) → (..., channels · kernel, positions)."""
    planes = x.reshape(-1, *window.shape)
    columns = functional.unfold(planes, window.kernel, padding=window.padding, stride=window.stride)
    return columns.view(*x.shape[:-1], *columns.shape[1:])


def convolved(x: Tensor, kernels: Tensor, window: Window, groups: int) -> Tensor:
    """x (..., inputs) by kernels (channels out, channels in / groups · kernel) → (..., channels out · positions)."""
    columns = seen(x, window)
    split = columns.view(*columns.shape[:-2], groups, -1, window.positions)
    return (kernels.view(groups, -1, kernels.shape[1]) @ split).flatten(-3)


def pooled(x: Tensor, window: Window) -> Tensor:
    """x (..., inputs) → its sums over the windows (..., channels · positions)."""
    columns = seen(x, window)
    return columns.view(*columns.shape[:-2], window.shape[0], -1, window.positions).sum(dim=-2).flatten(-2)


def by_channel(values: Tensor, channels: int) -> Tensor:
    """(..., channels · places) → (..., places, channels)."""
    return values.reshape(*values.shape[:-1], channels, -1).transpose(-1, -2)


def fan_out(window: Window, kernels: int) -> Tensor:
    """(inputs,): to how many sums each input is added, by as many kernels as see its channel."""
    return torch.from_numpy(window.fan_out() * kernels).repeat(window.shape[0])

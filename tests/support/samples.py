"""Weights of known distributions, and rounding to codes."""

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Laplace

from quantal.qat.arithmetic.torch_ops import round_half_up


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def laplace(*shape: int, seed: int = 0) -> Tensor:
    uniform = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Laplace(0.0, 1.0).icdf(uniform.clamp(1e-12, 1 - 1e-12))


def rounded(limit: int) -> Callable[[Tensor], Tensor]:
    return lambda w: round_half_up(w).clamp(-limit, limit)


# A row of floats that float32 holds and squares without overflow, zeros and equal ones often among them.
FLOATS = st.one_of(st.just(0.0), st.floats(-1e4, 1e4, width=32, allow_subnormal=False))
ROW = st.lists(FLOATS, min_size=1, max_size=30)

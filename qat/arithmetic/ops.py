"""The vocabulary that the neurons and a layer's wiring are written against, without torch.

Torch's reading evaluates it (torch_ops.py), the builder of the integer network records it (export/ir/builder.py), and
so does the recorder of the fused engines (engine/adjoint.py). On integers all are equal, see export/base/fixed.py.
"""

from typing import Any, Protocol, TypeVar

V = TypeVar("V")
"""A value of some ops, one integer for each neuron of a layer: a tensor, or the number of what is recorded."""


class Ops(Protocol[V]):
    """What every reading knows. Gradients, of which only training's readings know, are said in brackets."""

    def const(self, value: int, /) -> V:
        """The value itself, for every neuron."""
        ...

    def add(self, a: V, b: V, /) -> V:
        """a + b."""
        ...

    def sub(self, a: V, b: V, /) -> V:
        """a − b."""
        ...

    def mul(self, a: V, b: V, /) -> V:
        """a · b."""
        ...

    def shr(self, a: V, shift: int, /) -> V:
        """floor((a + 2^(shift−1)) / 2^shift), half up; a for shift 0. [The gradient of a / 2^shift.]"""
        ...

    def shl(self, a: V, shift: int, /) -> V:
        """a · 2^shift."""
        ...

    def clamp(self, a: V, lo: Any, hi: Any, /) -> V:
        """a, but at least lo and at most hi, which are infinite in full precision. [None outside.]"""
        ...

    def gt(self, a: V, b: V, /) -> V:
        """1 where a > b, else 0. [That of a surrogate.]"""
        ...

    def select(self, condition: V, a: V, b: V, /) -> V:
        """a where the condition is not 0, else b."""
        ...

    def detach(self, a: V, /) -> V:
        """a. [None.]"""
        ...

    def called(self, label: str, a: V, /) -> V:
        """a, which is called so where it is emitted. [Its own.]"""
        ...

    def step(self, a: V, borders: Any, grid: Any, /) -> V:
        """How many of the ascending borders of the TableGrid lie at or below a. [Where the grid lets one pass.]"""
        ...

    def lookup(self, a: V, levels: Any, /) -> V:
        """The level of code a."""
        ...


class SoftOps(Ops[V], Protocol[V]):
    """What torch's reading knows beside: nothing soft is deployed."""

    def soft_step(self, a: V, grid: Any, sharpness: Any, /) -> V:
        """Σ gap · σ(sharpness · (a − border)) over the TableGrid's borders, from its lowest level up."""
        ...

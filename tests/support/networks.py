"""Small networks for the tests of what is emitted: trained ones, and integer programs that use every op."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from quantal.export.base.errors import BadInput
from quantal.export.base.fixed import Ints
from quantal.export.build import Build, write_build
from quantal.export.ir import interpret
from quantal.export.ir.network import Layer, Network
from quantal.export.ir.ops import Op
from quantal.export.proof.intervals import Interval, evaluate, prove
from quantal.qat.lower import exact_dtype, lower
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.network.trace import hard_trace


def write(network: SpikingNetwork | Network, path: Path, name: str, x: Ints) -> Build:
    """The build of `network` in the new folder `path`, its vectors what torch's hard forward does on x.

    Of an integer network that nobody trained, the interpreter's.
    """
    if isinstance(network, Network):
        lowered = network.renamed(name)
        write_build(path, prove(lowered), x, interpret.run(lowered, x))
    else:
        lowered = lower(network, name)
        write_build(path, lowered, x, hard_trace(network, x, exact_dtype(lowered)))
    return Build.open(path)


def input_for(network: SpikingNetwork | Network, samples: int, steps: int, seed: int = 0) -> Ints:
    """At random from the network's range, but first: least, greatest, by turns of step, of channel; edges at random."""
    trained = isinstance(network, SpikingNetwork)
    lo, hi = (0, network.input_maximum) if trained else (network.input_lo, network.input_hi)
    shape = samples, steps, network.inputs
    rng = np.random.default_rng(seed)
    x = rng.integers(lo, hi, shape, np.int64, endpoint=True)
    x[4] = rng.choice(np.clip([lo, lo + 1, -1, 0, 1, hi - 1, hi], lo, hi), shape[1:])
    step, channel = np.indices(shape[1:])
    for sample, high in enumerate((step < 0, step >= 0, step % 2 == 0, (step + channel) % 2 == 0)):
        x[sample] = np.where(high, hi, lo)
    return x


def lively(make: Callable[[int], Any], seeds: Iterable[int], samples: int = 8, steps: int = 9) -> tuple[Any, Ints]:
    """The first network of those seeds in which every record moves, and the input on which it does."""
    for seed in seeds:
        network = make(seed)
        x = input_for(network, samples, steps, seed)
        trained = isinstance(network, SpikingNetwork)
        trace = hard_trace(network, x, torch.float64) if trained else interpret.run(network, x)
        if all(np.ptp(values) > 0 for values in trace.values()):
            return network, x
    raise AssertionError("in none of these networks does every record move")


class _Draft:
    """A layer that grows op by op, each op proven to fit in 32 bits."""

    def __init__(self, layer: Layer, inputs: dict[str, Interval]):
        self.layer, self.inputs = layer, inputs
        self.claims = {state.name: Interval.of(state.lo, state.hi) for state in layer.states}
        self.hulls: list[tuple[int, int]] = []

    def add(self, op: Op) -> int:
        """The index of the op's value. Raises BadInput where it does not fit."""
        grown = replace(self.layer, ops=(*self.layer.ops, op))
        self.hulls = [interval.hull for interval in evaluate(grown, self.inputs, self.claims)]
        self.layer = grown
        return len(grown.ops) - 1

    def first_of(self, draw: Callable[[], Op]) -> int:
        """As `add`, for the first op drawn that fits."""
        while True:
            try:
                return self.add(draw())
            except BadInput:
                continue

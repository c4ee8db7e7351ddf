"""How long executors may take: far more than any network costs, so that only what hangs is stopped."""

import math
from dataclasses import dataclass

from quantal.export.ir.network import Layer, Network
from quantal.export.ir.ops import Conv, MatVec, Step, SumPool

_PATIENCE = 120.0  # seconds that any program may take, whatever it computes
_A_SECOND = 10_000_000  # operations that the slowest computer does in a second
_INSTRUCTIONS = 1000  # that a core takes for an operation at most
_OVERHEAD = 1_000_000  # instructions that any call may take


def work(network: Network) -> int:
    """How many operations a step, or a reset, takes at most: a multiplication or a comparison each."""
    return network.inputs + sum(map(_work_of_layer, network.layers))


def _work_of_layer(layer: Layer) -> int:
    total = layer.size * (1 + sum(state.delay for state in layer.states))
    for op in layer.ops:
        match op:
            case MatVec():
                total += layer.weights[op.weights].size
            case Conv():
                total += layer.size * layer.weights[op.weights].shape[1]
            case SumPool():
                total += layer.size * op.kernel[0] * op.kernel[1]
            case Step():
                total += layer.size * (1 + len(op.borders))
            case _:
                total += layer.size
    return total


@dataclass(frozen=True)
class Bounds:
    """Of each executor. seconds: how long each process may take, compilers included; None: as long as its work may."""

    seconds: int | None = None

    def of_process(self, network: Network, samples: int, steps: int) -> int:
        """Seconds that a process may take for so many samples of so many steps."""
        return self.seconds or math.ceil(_PATIENCE + work(network) * samples * steps / _A_SECOND)

    def of_call(self, network: Network, steps: int = 1) -> int:
        """Instructions that an emulated core may take for a call that does so many steps."""
        return _OVERHEAD + _INSTRUCTIONS * work(network) * (1 + steps)


GENEROUS = Bounds()

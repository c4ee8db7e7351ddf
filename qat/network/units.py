"""From real scales to shifts: the unit in which a layer counts, and by how many bits all else is aligned with it."""

import math
from dataclasses import dataclass

from torch import Tensor

from quantal.qat.arithmetic.exact import nearest_exponent
from quantal.qat.config.parts.layers import Weighted
from quantal.qat.config.parts.states import Shared, Uniform

THRESHOLD_UNITS = 64
"""Of how many units a threshold is made at least, to the nearest power of two, as with 8-bit states.

Thresholds, biases and decayed membranes are rounded to units: these must not get coarse with weights and states.
"""

_LEAST_SPAN = 2.0**-12
"""Of the configured range, what states span at least: finer levels than these take shifts that no 32 bits hold."""

Span = tuple[float, float]
"""What states are to reach from and to, in real values."""


@dataclass(frozen=True)
class Units:
    """What a layer counts in.

    start (rows, 1) or (1, 1): the real value of one unit at first. fan_in, recurrent, state: a code of the input's
    weights, of the recurrent weights and of the state grid is 2^that many units. added: so is a unit of the layer whose
    current is added.
    """

    start: Tensor
    fan_in: int
    recurrent: int
    state: int
    added: int = 0


def units(
    scale: Tensor, back: float, state: float | None, most: float, growth: float = 1.0, added: Tensor | None = None
) -> Units:
    """The unit that is as fine as the finest of these needs it.

    scale, (rows, 1) or (1, 1), back and state: the real values of a code of the input's weights, of the recurrent ones
    and of the state grid; state is None where the grid has the weights'. most: what a unit may be at most. growth: what
    a norm multiplies currents by. added: the unit of the layer whose current is added, (rows, 1) or (1, 1), which this
    one takes over, or a power of two less.
    """
    fan_in, back = float(scale.mean()) * growth, back * growth
    sizes = (fan_in, back, fan_in if state is None else state)
    finest = min(*sizes, most)
    if added is None:
        of_input, recurrent, of_state = (nearest_exponent(size / finest) for size in sizes)
        return Units(scale * 2.0**-of_input, of_input, recurrent, of_state)
    finer = max(0, nearest_exponent(float(added.mean()) / finest))
    start = added * 2.0**-finer
    of_input, recurrent, of_state = (max(0, nearest_exponent(size / float(start.mean()))) for size in sizes)
    return Units(start, of_input, recurrent, of_state, finer)


def state_step(config: Weighted, reach: float, tabled: bool, span: Span | None) -> float | None:
    """The real value of a code of the state grid; None where it has that of the weights.

    reach: what the levels of a table are measured in; tabled: whether there is one; span: None for the configured one.
    """
    if tabled:  # fine enough to tell the levels of any table apart
        return reach / (1 << config.states.width("membrane") + 5)
    if not isinstance(config.states, Uniform) or config.neuron.stateless:
        return None
    far = config.neuron.threshold * config.states.range
    reached = far if span is None else max(-span[0], span[1], _LEAST_SPAN * far)
    return reached / (1 << config.states.membrane - 1)


def largest_unit(config: Weighted, reach: float) -> float:
    """What a unit may be at most, whatever the codes are; without an end where weights and states share one, as MINT's.

    A current or an adaptation with a width of its own is told apart as finely as it asks. reach: see state_step.
    """
    if isinstance(config.states, Shared):
        return math.inf
    far = config.neuron.threshold * config.states.range
    widths = (config.states.current, config.states.adaptation)
    return min([reach / THRESHOLD_UNITS, *(far / (1 << bits - 1) for bits in widths if bits is not None)])

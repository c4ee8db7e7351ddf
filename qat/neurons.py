"""Every neuron's arithmetic, written once against `ops`: torch evaluates it, the integer network's builder records it.

One step, in this order: read state, decay, add current, delayed reset, state quantizer, fire (strictly above the
threshold), immediate reset and requantize, commit. Nothing here knows torch. In full precision the same functions run
with decay_bits = state_shift = 0 and an infinite range, which leaves the plain real-valued equations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qat.grids import Grid

RESETS = ("subtract", "zero", "none")
TIMINGS = ("delayed", "immediate")
COUNT_MAX = 2**16 - 1  # a spike count saturates here, so that it is bounded over all time

State = dict[str, Any]


@dataclass(frozen=True)
class Params:
    """What a step needs beside current and state.

    threshold, decay: `ops` values, one a neuron or one for all; decay m stands for β = m / 2^decay_bits.
    grid: how the membrane is kept. spikes: how many a neuron sends at once at most.
    """

    threshold: Any
    decay: Any
    decay_bits: int
    grid: Grid
    reset: str = "none"
    timing: str = "delayed"
    pool: str = "last"
    spikes: int = 1


def current(ops: Any, fan_in: Any, fan_in_shift: int, recurrent: Any, recurrent_shift: int, bias: Any) -> Any:
    """The sum of a neuron's products, aligned by shifts: I = (W x)·2^a + (V s)·2^r + b. V and b may be None."""
    total = ops.shl(fan_in, fan_in_shift)
    if recurrent is not None:
        total = ops.add(total, ops.shl(recurrent, recurrent_shift))
    return total if bias is None else ops.add(total, bias)


def _leak(ops: Any, level: Any, p: Params) -> Any:
    return ops.shr(ops.mul(level, p.decay), p.decay_bits)


def _fire(ops: Any, level: Any, p: Params) -> list[Any]:
    # [U > θ], [U > 3θ], … (2k − 1)θ: the borders of a rounding to multiples of 2θ, which is the scaled round-clip of
    # MaQD (arXiv 2403.14999) on activations. One above the other, so that their sum is how many spikes are sent.
    fired = [ops.gt(level, p.threshold)]
    while len(fired) < p.spikes:
        level = ops.sub(level, ops.shl(p.threshold, 1))
        fired.append(ops.gt(level, p.threshold))
    return fired


def _reset(ops: Any, fired: list[Any], level: Any, p: Params) -> Any:
    # As in snnTorch, no gradient flows through the decision to reset. Subtracting removes the highest threshold passed.
    zero = ops.const(0)
    if p.reset == "zero":
        return ops.select(ops.detach(fired[0]), zero, level)
    for index, spike in enumerate(fired):
        amount = p.threshold if index == 0 else ops.shl(p.threshold, 1)
        level = ops.sub(level, ops.select(ops.detach(spike), amount, zero))
    return level


def lif(ops: Any, current: Any, state: State, p: Params) -> tuple[Any, State]:
    """Leaky integrate-and-fire: U = βU + I − R, S = [U > θ], or of several spikes at once Σ_k [U > (2k − 1)θ].

    R is the highest threshold passed (subtract) or the whole U, this step's current included (zero). Delayed: R acts
    where the stored membrane was above θ, one step after the spike and after the decay. Immediate: R acts at once, on
    the quantized membrane, or, where the grid holds what a reset leaves, before it is quantized at all.
    """
    before = p.grid.decode(ops, state["u"])
    level = ops.add(_leak(ops, before, p), current)
    if p.reset != "none" and p.timing == "delayed":
        level = _reset(ops, _fire(ops, before, p), level, p)
    if not p.grid.after_reset:
        code = p.grid.encode(ops, level)
        level = p.grid.decode(ops, code)
    fired = _fire(ops, level, p)
    if p.reset != "none" and p.timing == "immediate":
        code = p.grid.encode(ops, _reset(ops, fired, level, p))
    spike = fired[0]
    for more in fired[1:]:
        spike = ops.add(spike, more)
    return spike, {"u": code}


def li(ops: Any, current: Any, state: State, p: Params) -> tuple[Any, State]:
    """Leaky integrator, a readout: U = βU + I. The output is U's value, or its maximum since the start (pool = max)."""
    level = ops.add(_leak(ops, p.grid.decode(ops, state["u"]), p), current)
    code = p.grid.encode(ops, level)
    if p.pool != "max":
        return p.grid.value(ops, code), {"u": code}
    best = ops.select(ops.detach(ops.gt(code, state["best"])), code, state["best"])
    return p.grid.value(ops, best), {"u": code, "best": best}


def count(ops: Any, current: Any, state: State, p: Params) -> tuple[Any, State]:
    """A spike-count readout: LIF neurons whose output is how often each has fired since the start."""
    spike, after = lif(ops, current, state, p)
    total = ops.clamp(ops.add(state["count"], spike), 0, COUNT_MAX)
    return total, after | {"count": total}


@dataclass(frozen=True)
class StateRange:
    """A state's value before the first step, and the range of its code, which stands for code · 2^shift."""

    init: float
    lo: float
    hi: float
    shift: int = 0


def spikes(p: Params) -> StateRange:
    """The range of a neuron's spikes."""
    return StateRange(0, 0, p.spikes)


def _membrane(p: Params) -> dict[str, StateRange]:
    return {"u": StateRange(p.grid.start, p.grid.lo, p.grid.hi, p.grid.shift)}


def _integrator(p: Params) -> dict[str, StateRange]:
    best = {"best": StateRange(p.grid.lo, p.grid.lo, p.grid.hi, p.grid.shift)}
    return _membrane(p) | (best if p.pool == "max" else {})


def _counter(p: Params) -> dict[str, StateRange]:
    return _membrane(p) | {"count": StateRange(0, 0, COUNT_MAX)}


@dataclass(frozen=True)
class Neuron:
    """A row of NEURONS: the step, its states, its output's name; whether it fires, whether it may end a network."""

    step: Callable[[Any, Any, State, Params], tuple[Any, State]]
    states: Callable[[Params], dict[str, StateRange]]
    output_name: str
    fires: bool
    readout: bool


NEURONS = {
    "lif": Neuron(lif, _membrane, "spike", fires=True, readout=False),
    "li": Neuron(li, _integrator, "membrane", fires=False, readout=True),
    "count": Neuron(count, _counter, "count", fires=True, readout=True),
}

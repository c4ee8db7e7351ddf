"""Every neuron's arithmetic, written once against `ops`: torch evaluates it, the integer network's builder records it.

One step, in this order: read state, decay, add current, delayed reset, state quantizer, fire (strictly above the
threshold), immediate reset and requantize, commit. Nothing here knows torch. In full precision the same functions run
with decay_bits = state_shift = 0 and an infinite range, which leaves the plain real-valued equations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

RESETS = ("subtract", "zero", "none")
TIMINGS = ("delayed", "immediate")
COUNT_MAX = 2**16 - 1  # a spike count saturates here, so that it is bounded over all time

State = dict[str, Any]


@dataclass(frozen=True)
class Params:
    """What a step needs beside current and state.

    threshold, decay: `ops` values, one a neuron or one for all; decay m stands for β = m / 2^decay_bits.
    The membrane is kept as a code in [lo, hi]; code · 2^state_shift is its level in accumulator units.
    """

    threshold: Any
    decay: Any
    decay_bits: int
    state_shift: int
    lo: float
    hi: float
    reset: str = "none"
    timing: str = "delayed"
    pool: str = "last"


def current(ops: Any, fan_in: Any, fan_in_shift: int, recurrent: Any, recurrent_shift: int, bias: Any) -> Any:
    """The sum of a neuron's products, aligned by shifts: I = (W x)·2^a + (V s)·2^r + b. V and b may be None."""
    total = ops.shl(fan_in, fan_in_shift)
    if recurrent is not None:
        total = ops.add(total, ops.shl(recurrent, recurrent_shift))
    return total if bias is None else ops.add(total, bias)


def _leak(ops: Any, level: Any, p: Params) -> Any:
    return ops.shr(ops.mul(level, p.decay), p.decay_bits)


def _quantize(ops: Any, level: Any, p: Params) -> Any:
    return ops.clamp(ops.shr(level, p.state_shift), p.lo, p.hi)


def _reset(ops: Any, spike: Any, level: Any, p: Params) -> Any:
    # As in snnTorch, no gradient flows through the decision to reset.
    fired = ops.detach(spike)
    if p.reset == "zero":
        return ops.select(fired, ops.const(0), level)
    return ops.sub(level, ops.select(fired, p.threshold, ops.const(0)))


def lif(ops: Any, current: Any, state: State, p: Params) -> tuple[Any, State]:
    """Leaky integrate-and-fire: U = βU + I − R, S = [U > θ].

    R is θ (subtract) or the whole U, this step's current included (zero). Delayed: R acts where the stored membrane
    was above θ, one step after the spike and after the decay. Immediate: R acts at once, on the quantized membrane.
    """
    before = ops.shl(state["u"], p.state_shift)
    level = ops.add(_leak(ops, before, p), current)
    if p.reset != "none" and p.timing == "delayed":
        level = _reset(ops, ops.gt(before, p.threshold), level, p)
    code = _quantize(ops, level, p)
    level = ops.shl(code, p.state_shift)
    spike = ops.gt(level, p.threshold)
    if p.reset != "none" and p.timing == "immediate":
        code = _quantize(ops, _reset(ops, spike, level, p), p)
    return spike, {"u": code}


def li(ops: Any, current: Any, state: State, p: Params) -> tuple[Any, State]:
    """Leaky integrator, a readout: U = βU + I. The output is U's code, or its maximum since the start (pool = max)."""
    level = ops.add(_leak(ops, ops.shl(state["u"], p.state_shift), p), current)
    code = _quantize(ops, level, p)
    if p.pool != "max":
        return code, {"u": code}
    best = ops.select(ops.detach(ops.gt(code, state["best"])), code, state["best"])
    return best, {"u": code, "best": best}


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


SPIKE = StateRange(0, 0, 1)


def _membrane(p: Params) -> dict[str, StateRange]:
    return {"u": StateRange(0, p.lo, p.hi, p.state_shift)}


def _integrator(p: Params) -> dict[str, StateRange]:
    best = {"best": StateRange(p.lo, p.lo, p.hi, p.state_shift)}
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

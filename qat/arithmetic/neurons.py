"""Every neuron's arithmetic, written once against `ops`: torch evaluates it, the integer network's builder records it.

One step, in this order: read state, decay, add current, delayed reset, state quantizer, fire (strictly above the
threshold), immediate reset and requantize, commit. Nothing here knows torch. In full precision the same functions run
with decay_bits = state_shift = 0 and an infinite range, which leaves the plain real-valued equations.

snnTorch 1.0's neurons are among them. Leaky, RLeaky and Lapicque are lif; Synaptic and RSynaptic are lif with a
synapse; Alpha is alpha. Their reset to zero is "zero", but Leaky's is "zero-before"; reset_delay=False is "snntorch".
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from quantal.qat.arithmetic.grids import Grid, ShiftGrid

RESETS = ("subtract", "zero", "zero-before", "none")
TIMINGS = ("delayed", "immediate", "snntorch")
RESETTING = (
    *((reset, timing) for reset in ("subtract", "zero", "none") for timing in ("delayed", "immediate")),
    ("subtract", "snntorch"),  # at once; of any other reset it would be what "immediate" is
    ("zero-before", "delayed"),
)
SYNAPSES = ("none", "exponential")
TABLES = ("threshold", "decay", "synapse_decay", "adaptation", "adaptation_decay")
COUNT_MAX = 2**16 - 1  # a spike count saturates here, so that it is bounded over all time

UNQUANTIZED = ShiftGrid(0, -math.inf, math.inf)

State = dict[str, Any]


@dataclass(frozen=True)
class Params:
    """What a step needs beside current and state.

    TABLES are `ops` values, one a neuron or one for all, or None; a decay m stands for β = m / 2^decay_bits, and None
    for 1. grid: how the membrane is kept; current_grid: how a current is, and what an alpha neuron
    keeps; adaptation_grid: how an adaptation is. spikes: how many a neuron sends at
    once at most. refractory: for how many steps after a spike it sends none.
    """

    threshold: Any
    decay: Any
    decay_bits: int
    grid: Grid
    synapse_decay: Any = None
    adaptation: Any = None
    adaptation_decay: Any = None
    current_grid: ShiftGrid = UNQUANTIZED
    adaptation_grid: ShiftGrid = UNQUANTIZED
    reset: str = "none"
    timing: str = "delayed"
    pool: str = "last"
    spikes: int = 1
    refractory: int = 0

    @property
    def tables(self) -> dict[str, Any]:
        """Those of TABLES that there are, by name."""
        return {name: value for name in TABLES if (value := getattr(self, name)) is not None}

    def with_tables(self, tables: dict[str, Any]) -> "Params":
        """The same with these tables, and no others."""
        given: dict[str, Any] = dict.fromkeys(TABLES) | tables
        return replace(self, **given)

    @property
    def remembers(self) -> bool:
        """Whether the spikes of the step before are a state of its own, as the membrane alone does not tell."""
        return self.adaptation is not None or self.refractory > 0


def current(ops: Any, fan_in: Any, fan_in_shift: int, recurrent: Any, recurrent_shift: int, bias: Any) -> Any:
    """The sum of a neuron's products, aligned by shifts: I = (W x)·2^a + (V s)·2^r + b. V and b may be None."""
    total = ops.shl(fan_in, fan_in_shift)
    if recurrent is not None:
        total = ops.add(total, ops.shl(recurrent, recurrent_shift))
    return ops.called("current", total if bias is None else ops.add(total, bias))


def _leak(ops: Any, level: Any, decay: Any, p: Params) -> Any:
    return level if decay is None else ops.shr(ops.mul(level, decay), p.decay_bits)


def _trace(ops: Any, name: str, grid: ShiftGrid, code: Any, decay: Any, more: Any, p: Params) -> Any:
    # the code of a current or an adaptation that decays, and to which more is added
    leaked = ops.called(f"{name}_leaked", _leak(ops, grid.decode(ops, code), decay, p))
    return ops.called(f"{name}_code", grid.encode(ops, ops.called(f"{name}_level", ops.add(leaked, more))))


def _synapse(ops: Any, current: Any, state: State, p: Params) -> tuple[Any, State]:
    # what reaches the membrane, and the state that a synapse keeps of it
    if p.synapse_decay is None:
        return current, {}
    code = _trace(ops, "synapse", p.current_grid, state["i"], p.synapse_decay, current, p)
    return ops.called("synaptic", p.current_grid.decode(ops, code)), {"i": code}


def _fire(ops: Any, level: Any, threshold: Any, p: Params, label: str = "fires") -> list[Any]:
    # [U > θ], [U > 3θ], … (2k − 1)θ: the borders of a rounding to multiples of 2θ, which is the scaled round-clip of
    # MaQD (arXiv 2403.14999) on activations. One above the other, so that their sum is how many spikes are sent.
    fired = [ops.called(label, ops.gt(level, threshold))]
    while len(fired) < p.spikes:
        level = ops.sub(level, ops.shl(threshold, 1))
        fired.append(ops.called(label, ops.gt(level, threshold)))
    return fired


def _sum(ops: Any, fired: list[Any]) -> Any:
    return reduce(ops.add, fired)


def _reset(ops: Any, fired: list[Any], level: Any, threshold: Any, p: Params) -> Any:
    # As in snnTorch, no gradient flows through the decision to reset. Subtracting removes the highest threshold passed.
    zero = ops.const(0)
    if p.reset != "subtract":
        return ops.called("reduced", ops.select(ops.detach(fired[0]), zero, level))
    for index, spike in enumerate(fired):
        amount = threshold if index == 0 else ops.shl(threshold, 1)
        level = ops.sub(level, ops.called("reset", ops.select(ops.detach(spike), amount, zero)))
    return ops.called("reduced", level)


def lif(ops: Any, current: Any, state: State, p: Params) -> tuple[Any, State]:
    """Leaky integrate-and-fire: U = βU + I − R, S = [U > θ], or of several spikes at once Σ_k [U > (2k − 1)θ].

    R is the highest threshold passed (subtract), the whole U with this step's current (zero), or without it, before the
    decay (zero-before). Delayed: R acts one step after the spike, where the stored membrane was above θ. Immediate: it
    acts at once, on the quantized membrane, or, where the grid holds what a reset leaves, before it is quantized at
    all. As snnTorch's reset_delay=False: at once too, but a membrane which that leaves above θ fires above 2θ only.
    With a synapse, the current is a state of its own: I = αI + the products. Adaptive: θ = θ₀ + A, where A = ρA + βS
    with the spikes of the step before. Refractory: no spikes for so many steps after one.
    """
    current, after = _synapse(ops, current, state, p)
    threshold = passed = p.threshold  # that of this step, and of the step before
    if p.adaptation is not None:
        grid = p.adaptation_grid
        passed = ops.called("old_threshold", ops.add(threshold, grid.decode(ops, state["a"])))
        more = ops.mul(state["spike"], p.adaptation)
        after["a"] = _trace(ops, "adaptation", grid, state["a"], p.adaptation_decay, more, p)
        threshold = ops.called("threshold_now", ops.add(threshold, grid.decode(ops, after["a"])))
    if p.refractory:
        left = ops.clamp(ops.sub(state["rest"], ops.const(1)), 0, p.refractory)
        after["rest"] = ops.called("rest", ops.select(ops.detach(state["spike"]), ops.const(p.refractory), left))

    before = ops.called("old_level", p.grid.decode(ops, state["u"]))
    late = p.reset != "none" and p.timing != "immediate"
    sent = [state["spike"]] if p.remembers else []
    if late and p.reset == "zero-before":
        before = _reset(ops, sent or _fire(ops, before, passed, p, "sent"), before, passed, p)
    level = ops.called("charged", ops.add(ops.called("leaked", _leak(ops, before, p.decay, p)), current))
    if late and p.reset != "zero-before":
        sent = sent or _fire(ops, before, passed, p, "sent")
        level = _reset(ops, sent, level, passed, p)

    if not p.grid.after_reset:
        code = ops.called("code", p.grid.encode(ops, level))
        level = ops.called("level", p.grid.decode(ops, code))
    fired = _fire(ops, level, threshold, p, "spike" if p.spikes == 1 and not p.refractory else "fires")
    if p.refractory:
        fired = [ops.called("spike", ops.select(after["rest"], ops.const(0), fired[0]))]
    if p.reset != "none" and p.timing != "delayed":
        level = _reset(ops, fired, level, threshold, p)
        if p.timing == "snntorch":  # it has been reset already, and is not twice
            level = ops.add(level, ops.select(ops.detach(sent[0]), passed, ops.const(0)))
        code = ops.called("code", p.grid.encode(ops, level))
    spike = ops.called("spike", _sum(ops, fired))
    return spike, after | {"u": code} | ({"spike": spike} if p.remembers else {})


def alpha(ops: Any, current: Any, state: State, p: Params) -> tuple[Any, State]:
    """An alpha-shaped response, snnTorch's Alpha: E = αE + I, H = βH − I, U = E + H, S = [U > θ].

    Its factor τ is in the threshold here: θ = θ_snnTorch / τ, τ = ln α / (ln β − ln α) + 1. α is the synapse's decay.
    A reset, to zero, drops E and H with this step's current, one step after the spike.
    """
    spike, grid, after = state["spike"], p.current_grid, {}
    for name, decay, more in (("e", p.synapse_decay, current), ("h", p.decay, ops.sub(ops.const(0), current))):
        leaked = ops.called(f"{name}_leaked", _leak(ops, grid.decode(ops, state[name]), decay, p))
        level = ops.called(f"{name}_level", ops.add(leaked, more))
        if p.reset != "none":
            level = _reset(ops, [spike], level, p.threshold, p)
        after[name] = ops.called(f"{name}_code", grid.encode(ops, level))
    level = ops.called("level", ops.add(grid.decode(ops, after["e"]), grid.decode(ops, after["h"])))
    spike = ops.called("spike", ops.gt(level, p.threshold))
    return spike, after | {"spike": spike}


def li(ops: Any, current: Any, state: State, p: Params) -> tuple[Any, State]:
    """Leaky integrator, a readout: U = βU + I. The output is U's value, or its maximum since the start (pool = max).

    With a synapse, I = αI + the products: CUBA-LI.
    """
    current, after = _synapse(ops, current, state, p)
    old_level = ops.called("old_level", p.grid.decode(ops, state["u"]))
    level = ops.called("charged", ops.add(ops.called("leaked", _leak(ops, old_level, p.decay, p)), current))
    after["u"] = code = ops.called("code", p.grid.encode(ops, level))
    if p.pool != "max":
        return ops.called("level", p.grid.value(ops, code)), after
    rises = ops.called("rises", ops.gt(code, state["best"]))
    after["best"] = best = ops.called("best", ops.select(ops.detach(rises), code, state["best"]))
    return ops.called("level", p.grid.value(ops, best)), after


def step(ops: Any, current: Any, state: State, p: Params) -> tuple[Any, State]:
    """S = [I > θ], without a memory: the neuron of single-step networks, S²NN (arXiv 2201.10879). Several: as lif's."""
    fired = _fire(ops, current, p.threshold, p, "spike" if p.spikes == 1 else "fires")
    return ops.called("spike", _sum(ops, fired)), {}


def count(ops: Any, current: Any, state: State, p: Params) -> tuple[Any, State]:
    """A spike-count readout: LIF neurons whose output is how often each has fired since the start."""
    spike, after = lif(ops, current, state, p)
    total = ops.called("count", ops.clamp(ops.add(state["count"], spike), 0, COUNT_MAX))
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


def _kept(grid: Grid, init: float) -> StateRange:
    return StateRange(init, grid.lo, grid.hi, grid.shift)


def _membrane(p: Params) -> dict[str, StateRange]:
    states = {"u": _kept(p.grid, p.grid.start)}
    states |= {} if p.synapse_decay is None else {"i": _kept(p.current_grid, 0)}
    states |= {} if p.adaptation is None else {"a": _kept(p.adaptation_grid, 0)}
    states |= {"rest": StateRange(0, 0, p.refractory)} if p.refractory else {}
    return states | ({"spike": spikes(p)} if p.remembers else {})


def _integrator(p: Params) -> dict[str, StateRange]:
    return _membrane(p) | ({"best": _kept(p.grid, p.grid.lo)} if p.pool == "max" else {})


def _counter(p: Params) -> dict[str, StateRange]:
    return _membrane(p) | {"count": StateRange(0, 0, COUNT_MAX)}


def _response(p: Params) -> dict[str, StateRange]:
    return {"e": _kept(p.current_grid, 0), "h": _kept(p.current_grid, 0), "spike": spikes(p)}


@dataclass(frozen=True)
class Neuron:
    """A row of NEURONS: the step, its states, its output's name; whether it fires, whether it may end a network.

    stateless: it has no states, whatever its Params.
    """

    step: Callable[[Any, Any, State, Params], tuple[Any, State]]
    states: Callable[[Params], dict[str, StateRange]]
    output_name: str
    fires: bool
    readout: bool
    stateless: bool = False


NEURONS = {
    "lif": Neuron(lif, _membrane, "spike", fires=True, readout=False),
    "alpha": Neuron(alpha, _response, "spike", fires=True, readout=False),
    "step": Neuron(step, lambda _: {}, "spike", fires=True, readout=False, stateless=True),
    "li": Neuron(li, _integrator, "membrane", fires=False, readout=True),
    "count": Neuron(count, _counter, "count", fires=True, readout=True),
}

"""What every function that a user may call is asked beside whole runs, and what it must answer.

Answers have the form of a trace: each (cases, steps, values), under "FUNCTION", or "LAYER.RECORD after FUNCTION" for
what it leaves in the state. They are made here from the network and the reference, never from what is tested.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from quantal.export.base.fixed import Ints
from quantal.export.base.names import record, ring, ring_index
from quantal.export.base.word import Word
from quantal.export.encoders import ENCODERS, hash32
from quantal.export.ir.interpret import Trace, classify, initial_states
from quantal.export.ir.network import Network

FILLINGS = (0xA5, 0x5A)
"""What every byte of a state is before it is reset, in turn: no first value is both."""
GUARD = FILLINGS[1]
"""What the byte after an encoded step must still be."""
_SAMPLES = 4  # that are classified, and encoded
_CALLS = 4096  # of an encoder, at most
_VALUES = 1 << 20  # that it reads in all, at most
_TURNS = 8  # steps in which what it remembers goes up and down, at least


@dataclass(frozen=True)
class Calls:
    """Calls of an encoder in order, and what they give.

    steps (calls,), at whose 0 a sample begins; values (calls, channels); codes (calls, inputs); sent (calls, channels):
    what was sent so far of each channel, where the encoder keeps that.
    """

    steps: Ints
    values: Ints
    codes: Ints
    sent: Ints | None


def encoder_calls(network: Network) -> Calls | None:
    """The calls of the encoder in the network's header, None where it has none."""
    calls = ENCODED.get(str(network.encoding.get("kind")))
    return None if calls is None else calls(*(int(network.encoding.get(name, 0)) for name in _SAID))


_SAID = ("steps", "channels", "maximum", "seed", "delta")


def _drawn(steps: int, channels: int, maximum: int) -> Ints:
    """Values (samples, calls, channels) of so many steps, or of as many as there may be calls."""
    count = max(1, min(steps, _CALLS, _VALUES // channels))
    shape = max(1, min(_SAMPLES, _CALLS // count)), count, channels
    return np.random.default_rng(0).integers(0, maximum, shape, endpoint=True)


def _flat(array: Ints) -> Ints:
    return array.astype(np.int64).reshape(-1, array.shape[-1])


def _latency(steps: int, channels: int, maximum: int, seed: int, delta: int) -> Calls:
    """Samples of one value at every step, the last among them; then values whose quotient is nearly another one."""
    values = _drawn(steps, channels, maximum)
    samples, count, _ = values.shape
    values[:] = values[:, :1]
    values[0] = np.array([0, maximum, 1])[np.arange(channels) % 3]
    shown = np.arange(count)
    shown[-1] = steps - 1
    codes = ENCODERS["latency"].run(values[:, 0], steps, maximum, seed, delta)[:, shown]
    every = np.arange(1, maximum + 1)
    time, left = np.divmod((maximum - every) * (steps - 1), maximum)
    near = np.unique([0, maximum - 1, *(np.argmax(score) for score in (left, -left, time - left, time + left))])
    fires = np.repeat(every[near, None], channels, axis=1)
    return Calls(
        np.append(np.tile(shown, samples), time[near]),
        np.append(_flat(values), fires, 0),
        np.append(_flat(codes), np.ones_like(fires), 0),
        None,
    )


def _rate(steps: int, channels: int, maximum: int, seed: int, delta: int) -> Calls:
    """Samples; then, at steps where some channel's random number is nearly another one, the values on its two sides."""
    values = _drawn(steps, channels, maximum)
    samples, count, _ = values.shape
    codes = ENCODERS["rate"].run(values, count, maximum, seed, delta)
    silent, left = np.divmod(_random(seed, np.arange(_VALUES)) * maximum, 1 << 16)  # the greatest that does not fire
    short = (1 << 16) - left
    scores = (-left - silent, silent - left, silent + 1 - short, -short)
    near = np.unique([np.argmax(score) for score in scores]) // channels
    random = _random(seed, near[:, None] * channels + np.arange(channels))
    quiet = random * maximum >> 16
    return Calls(
        np.concatenate([np.tile(np.arange(count), samples), near, near]),
        np.concatenate([_flat(values), quiet, quiet + 1]),
        np.concatenate([_flat(codes), np.zeros_like(quiet), np.ones_like(quiet)]),
        None,
    )


def _random(seed: int, n: Ints) -> Ints:
    return (hash32(seed, n) >> np.uint32(16)).astype(np.int64)


def _delta(steps: int, channels: int, maximum: int, seed: int, delta: int) -> Calls:
    """Samples; the first goes up and down exactly as far as sends a spike, and one less; the second to the ends."""
    values = _drawn(max(steps, _TURNS), channels, maximum)
    samples, count, _ = values.shape
    near = min(delta, maximum)
    turn = np.arange(count)[:, None] + np.arange(channels)
    values[0] = np.array([near, 1, 0, near - 1])[turn % 4]
    values[1:2] = np.where(np.arange(count) < count // 2, maximum, 0)[:, None]
    codes = ENCODERS["delta"].run(values, count, maximum, seed, delta).astype(np.int64)
    sent = delta * np.cumsum(codes[..., :channels] - codes[..., channels:], axis=1)
    return Calls(np.tile(np.arange(count), samples), _flat(values), _flat(codes), _flat(sent))


ENCODED = {"latency": _latency, "rate": _rate, "delta": _delta}
"""The encoders that a header has, each with what it is asked."""


@dataclass(frozen=True)
class Probe:
    """What is asked of one network. x (samples, steps, inputs) is classified; `after`: the reference's trace of it.

    macros: what those of the header must stand for, by their names without the network's.
    """

    network: Network
    x: Ints
    after: Mapping[str, Ints]
    macros: Mapping[str, int | str]

    @cached_property
    def outputs(self) -> Ints:
        """(cases, outputs) to decide on: with equal ones at every place, with the least and the greatest."""
        size, lo, hi = self.network.outputs, -(2**31), 2**31 - 1
        rng = np.random.default_rng(0)
        one = np.eye(size, dtype=bool)
        two = one | np.roll(one, 1, axis=1)
        patterns = [
            *(np.full((1, size), value) for value in (lo, -1, 0, hi)),
            *(np.where(one, high, low) for high, low in ((1, 0), (-1, lo), (lo, hi), (hi, lo))),
            *(np.where(two, high, low) for high, low in ((1, 0), (hi, hi - 1), (lo + 1, lo))),
            np.arange(size)[None] - size // 2,
            np.arange(size)[None, ::-1] - size // 2,
            rng.integers(0, 3, (16, size)),
            rng.integers(lo, hi, (16, size), endpoint=True),
        ]
        return np.concatenate(patterns).astype(np.int64)

    @property
    def traces(self) -> Ints:
        """(cases, 2, outputs): they are what a run ends with, after other ones."""
        return np.stack([np.roll(self.outputs, 1, axis=0), self.outputs], axis=1)

    @cached_property
    def calls(self) -> Calls | None:
        """Those of the encoder."""
        return encoder_calls(self.network)

    def of_simulator(self) -> Trace:
        """What the simulator's functions must answer; `run` calls some of them, here each is called by itself."""
        first = initial_states(self.network, len(self.x))
        answers = {f"{name} after initial_state": values[:, None] for name, values in first.items()}
        answers |= {f"{name} after step": values[:, :1] for name, values in self.after.items()}
        return answers | {"classify": _column(classify(self.traces))}

    def of_header(self) -> Trace:
        """What the header's functions must answer."""
        left = {name: values[:, -1:] for name, values in self.after.items() if name != "output"}
        return {
            **self.after_reset(),
            "argmax": _column(classify(self.outputs[:, None])),
            "classify": _column(classify(self.after["output"])),
            **{f"{name} after classify": values for name, values in left.items()},
            "classify of no steps": _column(np.zeros(1, np.int64)),
            "self_test": _column(np.zeros(1, np.int64)),
            **self.encoded(),
            **self.macro_values(),
        }

    def macro_values(self) -> Trace:
        """What each macro stands for: a number, or the length of a text, and its bytes."""
        answers: Trace = {}
        for name, value in self.macros.items():
            if isinstance(value, int):
                answers[macro(name)] = _column(np.array([value]))
            else:
                answers[length_of(macro(name))] = _column(np.array([len(value)]))
                answers[macro(name)] = np.frombuffer(value.encode(), np.uint8).astype(np.int64).reshape(1, 1, -1)
        return answers

    def after_reset(self) -> Trace:
        """Every array of the state that is kept from step to step."""
        answers: Trace = {}
        for layer in self.network.layers:
            states = {record(layer.name, state.name): state for state in layer.states}
            passed_on = layer.passed_on
            sent = 0 if passed_on is None else passed_on.init
            firsts = [(name, layer.size, states[name].init if name in states else sent) for name, _ in layer.records()]
            for state in layer.rings:
                name = record(layer.name, state.name)
                firsts.append((ring(name), (state.delay + (state is passed_on)) * layer.size, state.init))
                firsts.append((ring_index(name), 1, 0))
            answers |= {f"{name} after reset": np.full((len(FILLINGS), 1, size), first) for name, size, first in firsts}
        return answers

    def encoded(self) -> Trace:
        if self.calls is None:
            return {}
        codes, sent = self.calls.codes[:, None], self.calls.sent
        guarded = np.concatenate([codes, np.full_like(codes[..., :1], GUARD)], axis=2)
        if sent is None:
            return {"encode": guarded}
        width = Word.holding(0, int(self.network.encoding["maximum"])).bytes
        begun = np.zeros((len(FILLINGS), 1, sent.shape[1] + 1), np.int64)
        begun[:, 0, -1] = np.repeat(FILLINGS, width).astype(np.uint8).view(f"<u{width}")  # what stands behind them
        return {"encoder_reset": begun, "encode": guarded, "reference after encode": sent[:, None]}


def _column(values: Ints) -> Ints:
    return values.reshape(-1, 1, 1)


def macro(name: str) -> str:
    """What a macro is called among the answers."""
    return f"macro {name}"


def length_of(name: str) -> str:
    """What the length of a text is called there."""
    return f"length of {name}"


def macros(network: Network, digest: str, generator: str) -> dict[str, int | str]:
    """What each macro of the network's header stands for."""
    known: dict[str, int | str] = {"GENERATOR": generator, "DIGEST": digest, "INPUTS": network.inputs}
    known |= {"INPUT_MIN": network.input_lo, "INPUT_MAX": network.input_hi, "OUTPUTS": network.outputs}
    if network.encoding:
        known["STEPS"] = network.encoding["steps"]
    if network.encoding.get("kind") in ENCODED:
        known["CHANNELS"] = network.encoding["channels"]
    return known


def probe(network: Network, x: Ints, reference: Mapping[str, Ints], known: Mapping[str, int | str]) -> Probe:
    """What is asked of a network that gives the trace `reference` on x: about its first samples, and other cases."""
    return Probe(network, x[:_SAMPLES], {name: values[:_SAMPLES] for name, values in reference.items()}, known)

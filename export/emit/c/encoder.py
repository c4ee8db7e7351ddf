"""The encoder in C, where the network has one that runs on the device: what encoders.py does, a step at a time."""

from collections.abc import Mapping
from dataclasses import dataclass

from quantal.export.base.word import Word
from quantal.export.emit.c.memory import sample_word
from quantal.export.emit.c.text import block, c_type, loop
from quantal.export.ir.network import Network

_GOLDEN = 0x9E3779B9  # 2^32 by the golden ratio: seeds that are neighbours begin far apart


@dataclass(frozen=True)
class CFunction:
    """A function: the comment before its declaration, what stands before its brace, the lines within.

    A private one has its comment before its definition, and no declaration of its own.
    """

    comment: str
    head: str
    lines: list[str]
    private: bool = False


@dataclass(frozen=True)
class Encoder:
    """What the header has of an encoder: `remembers` says whether it keeps what was sent so far of each channel."""

    kind: str
    channels: int
    maximum: int
    word: Word
    functions: list[CFunction]
    remembers: bool = False

    @property
    def sample(self) -> str:
        """The type of one value before it, in C."""
        return c_type(self.word)


def encoder(network: Network) -> Encoder | None:
    """The encoder of the network; None where it has none, or none that the device needs."""
    writers = {"latency": _latency, "rate": _rate, "delta": _delta}
    said = network.encoding
    kind = str(said.get("kind"))
    if kind not in writers:
        return None
    numbers = {key: value for key, value in said.items() if isinstance(value, int)}
    written = writers[kind](network.name, numbers)
    channels, maximum = numbers["channels"], numbers["maximum"]
    return Encoder(kind, channels, maximum, sample_word(network), written, remembers=kind == "delta")


def _channels(name: str) -> str:
    return f"{name.upper()}_CHANNELS"


def _values_to_input(name: str) -> str:
    return f"void {name}_encode(const {name}_sample *values, uint32_t step, {name}_input *in)"


def _latency(name: str, said: Mapping[str, int]) -> list[CFunction]:
    maximum, last = said["maximum"], said["steps"] - 1
    entry = [
        f"const uint32_t late = ((uint32_t){maximum} - values[i]) * {last} / {maximum};",
        "in[i] = values[i] > 0 && step == late ? 1 : 0;",
    ]
    steps = f"0, 1, ... {name.upper()}_STEPS - 1"
    comment = f"Values -> the input of step {steps}: one spike a channel, the earlier the larger its value."
    return [CFunction(comment, _values_to_input(name), ["uint_fast32_t i;", *loop("i", _channels(name), *entry)])]


def _rate(name: str, said: Mapping[str, int]) -> list[CFunction]:
    hashed = [
        f"n += {said.get('seed', 0) * _GOLDEN % 2**32}u;",
        "n = (n ^ (n >> 16)) * 0x7FEB352Du;",
        "n = (n ^ (n >> 15)) * 0x846CA68Bu;",
        "return n ^ (n >> 16);",
    ]
    comment = "A counter-based generator (lowbias32): the same numbers wherever and in whatever order they are drawn."
    generator = CFunction(comment, f"static uint32_t {name}_priv_hash32(uint32_t n)", hashed, private=True)
    entry = [
        f"const uint32_t random = {name}_priv_hash32(step * {_channels(name)} + i) >> 16;",
        f"in[i] = random * {said['maximum']} < (uint32_t)values[i] * 65536 ? 1 : 0;",
    ]
    lines = ["uint32_t i;", *loop("i", _channels(name), *entry)]
    return [generator, CFunction("Values -> the input of step 0, 1, ....", _values_to_input(name), lines)]


def _delta(name: str, said: Mapping[str, int]) -> list[CFunction]:
    channels, delta = _channels(name), said["delta"]
    begun = ["uint_fast32_t i;", *loop("i", channels, "encoder->reference[i] = 0;")]
    up, down = f"reference + {delta}", f"reference - {delta}"
    entry = [
        "const uint32_t value = values[i], reference = encoder->reference[i];",
        f"const int up = value >= {up};",
        f"const int down = reference >= value + {delta};",
        "in[i] = up ? 1 : 0;",
        f"in[{channels} + i] = down ? 1 : 0;",
        *block("if (up)", f"encoder->reference[i] = ({name}_sample)({up});")[:-1],
        *block("} else if (down)", f"encoder->reference[i] = ({name}_sample)({down});"),
    ]
    arguments = f"{name}_encoder *encoder, const {name}_sample *values, {name}_input *in"
    said_of_step = f"a spike where a channel has moved by {delta} (up first, then down)"
    return [
        CFunction("", f"void {name}_encoder_reset({name}_encoder *encoder)", begun),
        CFunction(
            f"One step's values -> one step's input: {said_of_step}.",
            f"void {name}_encode({arguments})",
            ["uint_fast32_t i;", *loop("i", channels, *entry)],
        ),
    ]

"""Frama-C's Eva on a header: a program around it, three analyses, and what they say.

`plain` and `exact` reset and then step for ever on any inputs of the declared range, so Eva finds by itself what the
states can be. `plain` looks for undefined behaviour in all that a user may call but the self test. `exact` goes through
every synapse of a step by itself, and takes it as an alarm, too, where a value does not fit in its word. There the
claims of the export's own interval proof only tell Eva where to look for bounds; what it finds it proves.

`replay` runs the self test, value by value, and proves that it returns 0. It stands apart, for a loop fills the self
test's local array: only where that loop is unrolled does Eva know that all of it is written.

An index beyond an array of the state that stays within the state is none of Eva's alarms where it goes by a pointer.
"""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from quantal.export.ir.network import Network
from quantal.export.proof.intervals import prove

DATA_MODELS = {"int32": "x86_64", "int16": "x86_16"}
ANALYSES = {
    "plain": ("-eva-widening-delay", "20"),
    "exact": (
        "-eva-widening-delay", "3", "-eva-auto-loop-unroll", "100000",
        "-warn-signed-downcast", "-warn-unsigned-downcast",
    ),
    "replay": ("-eva-auto-loop-unroll", "100000", "-eva-slevel", "20"),  # counted loops, and the search by halves
}  # fmt: skip

_PROGRAM = """
#define {NAME}_IMPLEMENTATION
#include "__fc_builtin.h"
#include "{name}.h"

int main(void)
{{
    {static}{name}_state state;
    {static}{name}_input in[{NAME}_INPUTS];
    {static}int32_t out[{NAME}_OUTPUTS];
    uint32_t i;
{others}
    {name}_reset(&state);
    {hints}
    while (1) {{
        for (i = 0; i < {NAME}_INPUTS; ++i) {{
            in[i] = ({name}_input)Frama_C_interval({NAME}_INPUT_MIN, {NAME}_INPUT_MAX);
        }}
        {name}_step(&state, in, out);
        {name}_argmax(out);
    }}
}}
"""
_REPLAY = """
#define {NAME}_IMPLEMENTATION
#define {NAME}_SELF_TEST
#include "{name}.h"

int main(void)
{{
    {name}_state state;
    const uint32_t failed = {name}_self_test(&state);
    /*@ assert failed == 0; */
    return 0;
}}
"""
# Each in a branch of its own, for it never returns to the steps.
_CLASSIFY = """
    if (Frama_C_nondet(0, 1)) {{
        static {name}_input several[3 * {NAME}_INPUTS];
        for (i = 0; i < 3 * {NAME}_INPUTS; ++i) {{
            several[i] = ({name}_input)Frama_C_interval({NAME}_INPUT_MIN, {NAME}_INPUT_MAX);
        }}
        {name}_classify(&state, several, (uint32_t)Frama_C_interval(0, 3));
        return 0;
    }}
"""
_ENCODE = """
    if (Frama_C_nondet(0, 1)) {{
        static {name}_sample values[{NAME}_CHANNELS];
        {encoder}
        while (1) {{
            for (i = 0; i < {NAME}_CHANNELS; ++i) {{
                values[i] = ({name}_sample)Frama_C_interval(0, {maximum});
            }}
            {name}_encode({arguments});
        }}
    }}
"""


@dataclass(frozen=True)
class Verdict:
    """What Eva says: alarms, one a line, and whether it reached all that the analysis is to reach."""

    alarms: tuple[str, ...]
    everywhere: bool


def program(network: Network, analysis: str) -> str:
    """The C program for an analysis, with the network's header beside it."""
    names = {"name": network.name, "NAME": network.name.upper()}
    if analysis == "replay":
        return _REPLAY.format(**names)
    static, others, hints = "static ", "", ""
    if analysis == "exact":  # which sees what is not written before it is read; a loop that is not unrolled hides that
        static, hints = "", f'/*@ loop widen_hints "all", {", ".join(map(str, sorted(_claims(network))))}; */'
    else:
        others = _CLASSIFY.format(**names) + _encode(network, names)
    return _PROGRAM.format(**names, static=static, others=others, hints=hints)


def _claims(network: Network) -> set[int]:
    """The ends of all that a step leaves in the state."""
    hulls = (values[value].hull for layer, values in prove(network).layers for _, value in layer.records())
    ends = {end for hull in hulls for end in hull}
    return ends | {end for layer in network.layers for state in layer.states for end in (state.lo, state.hi)}


def _encode(network: Network, names: dict[str, str]) -> str:
    kind, maximum = network.encoding.get("kind"), network.encoding.get("maximum")
    if kind not in ("latency", "rate", "delta"):
        return ""
    step = f"(uint32_t)Frama_C_interval(0, {names['NAME']}_STEPS - 1)"
    arguments = "&encoder, values, in" if kind == "delta" else f"values, {step}, in"
    encoder = "static {name}_encoder encoder;\n        {name}_encoder_reset(&encoder);".format(**names)
    return _ENCODE.format(**names, maximum=maximum, arguments=arguments, encoder=encoder if kind == "delta" else "")


def analyse(network: Network, header: str, analysis: str, data_model: str) -> Verdict:
    """What the analysis says of the text of the network's header, where an int has 32 or 16 bits."""
    options = ("-machdep", DATA_MODELS[data_model], "-eva", *ANALYSES[analysis])
    quiet = ("-eva-no-results", "-eva-no-print", "-eva-msg-key=-initial-state")
    with tempfile.TemporaryDirectory(prefix="quantal-") as folder:
        source = Path(folder) / "main.c"
        source.with_name(f"{network.name}.h").write_text(header, encoding="utf-8")
        source.write_text(program(network, analysis), encoding="utf-8")
        command = ["frama-c", *options, *quiet, str(source)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    counted = re.search(r"^  (\d+) alarms? generated by the analysis", done.stdout, re.MULTILINE)
    if done.returncode != 0 or not counted:
        raise RuntimeError(f"frama-c has not come to an end: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    alarms = re.findall(r"^\[eva:alarm\] [^\n]*\n[^\n]*", done.stdout, re.MULTILINE)
    assert len(alarms) >= int(counted[1]), done.stdout[-2000:]
    return Verdict(tuple(alarms), _everywhere(done.stdout, analysis))


def _everywhere(said: str, analysis: str) -> bool:
    """In `plain` every function, in `exact` every statement of a step, in `replay` the claim at the end, proven."""
    if analysis == "replay":
        return re.search(r"^ *Assertions +1 valid +0 unknown +0 invalid", said, re.MULTILINE) is not None
    functions = re.search(r"(\d+) functions analyzed \(out of (\d+)\)", said)
    statements = re.search(r"(\d+) statements reached \(out of (\d+)\)", said)
    reached = functions if analysis == "plain" else statements
    return reached is not None and reached[1] == reached[2]

"""What a header's lines are like: short, named as the neuron names its values, with each delayed value kept once."""

import re

import numpy as np
import pytest

from quantal.export.emit.c.text import WIDTH, folded
from quantal.export.ir.builder import Builder
from quantal.export.ir.fold import folded as folded_layer
from quantal.export.ir.labels import value_names
from quantal.export.ir.network import Layer, Network, StateVar
from quantal.export.proof.intervals import find_invariants
from support.golden import GOLDEN, HEADERS
from support.programs import header_of

LONG = "l" * 32


@pytest.mark.parametrize("case", HEADERS)
def test_no_line_in_c_is_longer_than_it_may_be(case: str) -> None:
    program = (GOLDEN / case / "build" / f"{case}_test.c").read_text(encoding="utf-8")
    assert [line for line in (HEADERS[case] + program).splitlines() if len(line) > WIDTH] == []


def test_a_long_line_goes_on_where_it_reads_on() -> None:
    code = f"    const int32_t {LONG} = ({LONG} >= 1) + ({LONG} >= 2); /* what it is */\n"
    assert folded(code).splitlines() == [
        "    /* what it is */",
        f"    const int32_t {LONG} = ({LONG} >= 1)",
        f"        + ({LONG} >= 2);",
    ]
    assert folded(f'#define {LONG}_{LONG} "{"x" * 40}"\n').splitlines() == [
        f"#define {LONG}_{LONG} \\",
        f'    "{"x" * 40}"',
    ]
    words = " ".join(["word"] * 30)
    assert folded(f" * name  {words}\n").splitlines()[1].startswith(" *       word")
    assert folded("short\n\nlines\n") == "short\n\nlines\n"


def lif() -> Layer:
    """A leaky neuron of 3, whose clamp only its lower end can reach."""
    ops = Builder()
    current = ops.called("current", ops.input("input"))  # an input has a name
    leaked = ops.called("leaked", ops.shr(ops.mul(ops.state("u"), ops.table((57,), "decay")), 6))
    level = ops.called("level", ops.sub(leaked, current))
    code = ops.called("code", ops.clamp(level, -20, 900))
    spike = ops.called("spike", ops.gt(code, ops.const(-3)))
    states = (StateVar("u", 0, -20, 900, code),)
    return Layer("l", 3, {}, tuple(ops.ops), states, {}, spike, "spike", ops.labels)


def test_the_neuron_loop_reads_as_the_neuron_does() -> None:
    network = find_invariants(Network("n", 3, 0, 9, {}, (lif(),)))
    text = header_of(network, np.ones((1, 4, 3), np.int64))
    loop = text[text.index("    /* code =") :]
    assert loop[: loop.index("    }")].splitlines() == [
        "    /* code = CLAMP(SHR(old_u * decay, 6) - in_input, -20, 900)",
        "     * spike = code > -3",
        "     */",
        "    for (i = 0; i < 3; ++i) {",
        "        const int32_t in_input = in[i]; /* [0, 9] */",
        "        const int32_t old_u = state->l_u[i]; /* [-20, 0] */",
        "        const int32_t v3 = old_u * decay; /* [-1140, 0] */",
        "        const int32_t leaked = (v3 + 32) >> 6; /* [-18, 0], rounded half up */",
        "        const int32_t level = leaked - in_input; /* [-27, 0] */",
        "        const int32_t code = level < -20 ? -20 : level; /* [-20, 0] */",
        "        const int32_t spike = code > -3 ? 1 : 0; /* [0, 1] */",
        "        state->l_u[i] = (int8_t)code;",
        "        state->l_spike[i] = (uint8_t)spike;",
        "        out[i] = spike;",
    ]
    assert "    const int32_t decay = 57;\n" in text


def test_folding_keeps_labels_and_gives_each_once() -> None:
    layer = folded_layer(lif())
    assert set(layer.labels.values()) == {"leaked", "level", "code", "spike"}
    ops = Builder()
    values = [ops.called("sum", ops.add(ops.input("input"), ops.const(k))) for k in (1, 2, 3)]
    assert [ops.labels[value] for value in values] == ["sum", "sum_2", "sum_3"]
    assert ops.called("again", values[0]) == values[0]
    assert ops.labels[values[0]] == "sum"


def test_names_are_all_different_and_none_is_reserved() -> None:
    layer = lif()
    assert value_names(layer)[:3] == ["in_input", "old_u", "decay"]
    names = value_names(layer, {"leaked", "old_u"})
    assert len(set(names)) == len(names)
    assert not {"leaked", "old_u"} & set(names)


def test_a_ring_has_what_is_sent_late_and_no_array_has_it_again() -> None:
    text = HEADERS["graph_delays"]
    struct = text[text.index("typedef struct {") : text.index("union {")]
    delayed = re.findall(r" (\w+_delay\d+_\w+)\[(\d+)\]\[\d+\];", struct)
    assert dict(delayed) == {
        "input_delay1_line": "2", "input_delay2_line": "2", "input_delay4_line": "3",
        "early_delay2_line": "3", "early_delay3_line": "2", "fed_delay3_line": "4",
    }  # fmt: skip
    assert "_value[" not in struct

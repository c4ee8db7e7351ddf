"""The header in use: two models side by side, decisions, and a self test that names what is wrong."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quantal.export.base.toolchain import CORES
from quantal.export.build import Build
from quantal.export.emit.c.memory import input_word
from quantal.export.ir import interpret
from support.headers import HEADERS, implementation, numbers, output, program, self_test, with_header
from support.networks import input_for
from support.verifying import with_integer

# ---- use


TWO = """
#include <stdio.h>
{first}{second}
int main(void)
{{
    static const {a}_input xa[] = {{ {xa} }};
    static const {b}_input xb[] = {{ {xb} }};
    static {a}_state sa, ta;
    static {b}_state sb;
    static int32_t out_a[{A}_OUTPUTS], out_ta[{A}_OUTPUTS], out_b[{B}_OUTPUTS];
    uint32_t t, i;
    {a}_reset(&sa);
    {a}_reset(&ta);
    {b}_reset(&sb);
    for (t = 0; t < {steps}; ++t) {{
        {a}_step(&sa, xa + t * {A}_INPUTS, out_a);
        {b}_step(&sb, xb + t * {B}_INPUTS, out_b);
        {a}_step(&ta, xa + ({steps} + t) * {A}_INPUTS, out_ta);
    }}
    for (i = 0; i < {A}_OUTPUTS; ++i) {{ printf("%ld ", (long)out_a[i]); }}
    for (i = 0; i < {A}_OUTPUTS; ++i) {{ printf("%ld ", (long)out_ta[i]); }}
    for (i = 0; i < {B}_OUTPUTS; ++i) {{ printf("%ld ", (long)out_b[i]); }}
    return (int)({a}_self_test(&sa) + {b}_self_test(&sb));
}}
"""


@pytest.mark.parametrize("apart", [False, True], ids=["in one source", "in two sources"])
def test_two_models_and_two_streams_of_one_run_side_by_side(
    apart: bool, headers: Callable[[str], Build], tmp_path: Path
) -> None:
    a, b = headers("spikes"), headers("program")
    (xa, ta), (xb, tb) = a.vectors(), b.vectors()
    names = {"a": "spikes", "b": "program", "A": "SPIKES", "B": "PROGRAM", "steps": xa.shape[1]}
    assert xa.shape[1] == xb.shape[1]
    use = '#define {0}_SELF_TEST\n#include "{1}.h"\n'
    first, second = (use.format(n.upper(), n) if apart else implementation(n) for n in ("spikes", "program"))
    text = TWO.format(**names, first=first, second=second, xa=numbers(xa[6:8]), xb=numbers(xb[6]))
    sources = {"main": text}
    if apart:
        sources |= {"one": implementation("spikes"), "other": implementation("program")}
    path = program(tmp_path, a, f"-I{b.path}", **sources)
    expected = [*ta["output"][6, -1], *ta["output"][7, -1], *tb["output"][6, -1]]
    assert output(path).decode().split() == [str(value) for value in expected]


CLASSIFY = """
#include <stdio.h>
int main(void)
{{
    static {name}_input x[{steps} * {NAME}_INPUTS];
    static {name}_state state;
    while (fread(x, sizeof x, 1, stdin) == 1) {{
        printf("%lu ", (unsigned long){name}_classify(&state, x, {steps}));
    }}
    return 0;
}}
"""


@pytest.mark.parametrize("name", HEADERS)
def test_classify_is_the_interpreters_decision(name: str, headers: Callable[[str], Build], tmp_path: Path) -> None:
    network = headers(name).network
    x = input_for(network, 60, 5)
    expected = interpret.classify(interpret.run(network, x)["output"])
    assert len(set(expected.tolist())) > 1
    text = implementation(name) + CLASSIFY.format(name=name, NAME=name.upper(), steps=5)
    path = program(tmp_path, headers(name), main=text)
    stdin = x.astype(input_word(network).dtype).tobytes()
    assert output(path, stdin=stdin).decode().split() == [str(k) for k in expected]


def test_ties_go_to_the_lowest_index(headers: Callable[[str], Build], tmp_path: Path) -> None:
    outputs = np.stack(np.meshgrid(*[[-(2**31), -1, 0, 2**31 - 1]] * 4), axis=-1).reshape(-1, 4)
    assert headers("spikes").network.outputs == 4
    text = f"""{implementation("spikes")}
#include <stdio.h>
int main(void)
{{
    static const int32_t outputs[][4] = {{ {numbers(outputs)} }};
    uint32_t i;
    for (i = 0; i < {len(outputs)}; ++i) {{ printf("%lu ", (unsigned long)spikes_argmax(outputs[i])); }}
    return 0;
}}
"""
    path = program(tmp_path, headers("spikes"), "-Wno-missing-braces", main=text)
    expected = interpret.classify(outputs[:, None])
    assert output(path).decode().split() == [str(k) for k in expected] == [str(list(o).index(max(o))) for o in outputs]


TARGETS = ("host", *CORES)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["spikes", "program"])
def test_self_test_passes(name: str, target: str, headers: Callable[[str], Build], tmp_path: Path) -> None:
    assert self_test(headers(name), target, tmp_path) == 0


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("step", [0, 4, 8])
def test_self_test_names_the_step_of_a_changed_hash(
    step: int, target: str, headers: Callable[[str], Build], tmp_path: Path
) -> None:
    build = headers("spikes")
    text = build.header.read_text(encoding="utf-8")
    changed = with_integer(text, r"_test_hash\[9\] = \{", step, lambda value: value ^ 1)
    assert self_test(with_header(build, tmp_path / "changed", changed), target, tmp_path) == step + 1


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("layer", [0, 1])
def test_self_test_names_the_first_step_that_a_changed_weight_reaches(
    layer: int, target: str, headers: Callable[[str], Build], tmp_path: Path
) -> None:
    build = headers("program")
    x, reference = build.vectors()
    layers = list(build.network.layers)
    assert len(layers) > layer
    weights = layers[layer].weights
    changed = weights["fed_back"].copy()
    changed[0, 0] ^= 64
    layers[layer] = replace(layers[layer], weights={**weights, "fed_back": changed})
    trace = interpret.run(replace(build.network, layers=tuple(layers)), x[:1])
    differs = np.any([np.any(trace[n] != reference[n][:1], axis=(0, 2)) for n in trace], axis=0)
    assert differs.any()
    pattern = rf"_{layers[layer].name}_fed_back\[\d+\]\[\d+\] = \{{"
    text = with_integer(build.header.read_text(encoding="utf-8"), pattern, 0, lambda _: int(changed[0, 0]))
    assert self_test(with_header(build, tmp_path / "changed", text), target, tmp_path) == differs.argmax() + 1

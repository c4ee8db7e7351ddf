"""The committed golden cases: what their runs export to today is what is committed, byte for byte."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from quantal.export.base.toolchain import CORES
from quantal.export.build import Build
from quantal.export.ir import interpret
from quantal.export.run import EXECUTORS
from quantal.export.run.verify import batched, verify
from quantal.export.verify import vectors
from quantal.qat.arithmetic.neurons import NEURONS, RESETTING
from quantal.qat.config.parts.layers import Layer
from quantal.qat.quantizers.states import AFTER_RESET, STATE_QUANTIZERS
from quantal.qat.quantizers.weights import WEIGHT_QUANTIZERS
from quantal.qat.training.run import Run
from support.golden import GOLDEN, SHARE
from support.graphs import LAYERS

_spec = importlib.util.spec_from_file_location("regenerate", GOLDEN / "regenerate.py")
assert _spec is not None
assert _spec.loader is not None
regenerate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(regenerate)


def test_the_cases_are_there_and_the_readme_says_what_each_pins() -> None:
    cases = regenerate.cases()
    assert {"feed_forward", "recurrent_subtract", "recurrent_zero_immediate", "ternary_2bit"} <= set(cases)
    text = (GOLDEN / "README.md").read_text(encoding="utf-8")
    assert all(f"**{case}**" in text for case in cases)


@pytest.mark.parametrize("case", regenerate.cases())
def test_a_run_exports_to_the_committed_bytes(case: str, tmp_path: Path) -> None:
    regenerate.regenerate(case, tmp_path / "build")
    assert regenerate.differences(case, tmp_path / "build") == []


@pytest.mark.parametrize("case", regenerate.cases())
def test_the_committed_network_alone_gives_the_committed_vectors(case: str) -> None:
    build = Build.open(GOLDEN / case / "build")
    x, trace = build.vectors()
    comparison = vectors.Comparison("interpreter")
    comparison.add(trace, interpret.run(build.network, x))
    assert build.complaints == ()
    assert comparison.good, comparison.first
    assert all(np.ptp(values) > 0 for values in trace.values()), "a record that never moves pins nothing"


@pytest.mark.parametrize(
    ("case", "executor"),
    [
        pytest.param(case, executor, marks=pytest.mark.thorough if executor in CORES and case not in SHARE else ())
        for case in regenerate.cases()
        for executor in EXECUTORS
    ],
)
def test_every_executor_gives_the_committed_vectors(case: str, executor: str) -> None:
    """On the cores that are cross-compiled for, a share of the cases that has every line of the templates in it."""
    build = Build.open(GOLDEN / case / "build")
    x, trace = build.vectors()
    comparison, error = verify(build, executor, batched(x, trace, len(x)), lambda _: None)
    assert error is None
    assert comparison.good, comparison.first


def test_every_quantizer_at_every_width_is_in_a_case() -> None:
    networks = [Build.open(GOLDEN / case / "build").network for case in regenerate.cases()]
    said = [layer.semantics for network in networks for layer in network.layers]
    weights = {f"{bits} bits, {name}" for name, (_, widths) in WEIGHT_QUANTIZERS.items() for bits in widths}
    states = {
        f"{bits} bits, {name}"
        for name, table in STATE_QUANTIZERS.items()
        for bits in (range(2, 9) if table is None else range(1, 9))
    }
    assert weights <= {semantics.get("weights") for semantics in said}
    assert states <= {semantics.get("states") for semantics in said}
    after_reset = {semantics["states"] for semantics in said if "before states" in semantics.get("reset_timing", "")}
    assert after_reset >= {f"{bits} bits, {name}" for name in AFTER_RESET for bits in range(2, 9)} | {"1 bits, aligned"}


def test_every_neuron_and_reset_is_in_a_case_and_in_the_headers_comments() -> None:
    headers = "".join((GOLDEN / case / "build" / f"{case}.h").read_text() for case in regenerate.cases())
    networks = [Build.open(GOLDEN / case / "build").network for case in regenerate.cases()]
    said = [layer.semantics for network in networks for layer in network.layers]
    assert {row["neuron"] for row in said} == {*NEURONS, "none"}  # a pool, a current, what is late
    found = {(row["reset"], row["reset_timing"].partition(",")[0]) for row in said if "reset" in row}
    assert found >= {pair for pair in RESETTING if pair[0] != "none"} | {("none", "delayed")}
    for name, value in (("synapse", "exponential"), ("threshold", "adaptive"), ("leak", "none")):
        assert any(row.get(name) == value for row in said)
        assert f"{name} {value}" in headers
    assert any("refractory" in row for row in said)


def test_a_changed_byte_is_seen(tmp_path: Path) -> None:
    case = regenerate.cases()[0]
    regenerate.regenerate(case, tmp_path / "build")
    header = tmp_path / "build" / f"{case}.h"
    header.write_text(header.read_text().replace(">> 1", ">> 2", 1))
    assert regenerate.differences(case, tmp_path / "build") == [f"{case}.h"]


def test_every_neuron_reset_and_timing_is_in_a_case_of_every_kind_of_layer() -> None:
    networks = [Build.open(GOLDEN / case / "build").network for case in regenerate.cases()]
    convolved, dense = (
        {
            (said["neuron"], said.get("reset"), said.get("reset_timing", "").split(",")[0] or None)
            for network in networks
            for layer in network.layers
            if (said := layer.semantics)["neuron"] not in ("none", "li", "count")
            if ("convolution" in said) == window
        }
        for window in (True, False)
    )
    wanted = {("lif", reset, timing) for reset, timing in RESETTING} | {("alpha", "zero", "delayed")}
    assert wanted | {("step", None, None)} <= convolved
    assert wanted | {("step", None, None)} <= dense
    said = {word for network in networks for layer in network.layers for word in layer.semantics}
    assert {"convolution", "pool", "delay", "adds", "recurrence", "current"} <= said


def kinds(layer: Layer) -> set[str]:
    """Of what kinds the layer is, in the words of graphs.LAYERS."""
    found = {"added"} if layer.add else set()
    found |= {"delayed"} if layer.delays != (0,) else set()
    if layer.connection == "conv":
        return found | {"line" if layer.shape[1] == 1 else "planes"}
    return found | {{False: "dense", True: "recurrent", "diagonal": "diagonal"}[layer.recurrent]}


@pytest.mark.parametrize("kind", LAYERS)
def test_every_neuron_reset_and_timing_is_in_a_case_in_every_kind_of_layer(kind: str) -> None:
    configs = [Run.open(GOLDEN / case / "run").config for case in regenerate.cases()]
    neurons = [layer.neuron for config in configs for layer in config.weighted if kind in kinds(layer)]
    found = {(neuron.kind, neuron.reset, neuron.timing) for neuron in neurons}
    wanted = {("lif", *pair) for pair in RESETTING} | {("alpha", reset, "delayed") for reset in ("none", "zero")}
    memoryless = set() if kind in ("recurrent", "diagonal") else {("step", "none", "delayed")}
    assert wanted | memoryless <= found


@pytest.mark.parametrize("kind", ["dense", "planes", "delayed"])
def test_every_reset_and_timing_of_a_count_is_in_a_case_in_every_kind_of_readout(kind: str) -> None:
    readouts = [Run.open(GOLDEN / case / "run").config.layers[-1] for case in regenerate.cases()]
    counts = [readout for readout in readouts if readout.neuron.kind == "count"]
    convolution = {"line", "planes"} if kind == "planes" else {kind}
    assert set(RESETTING) == {(one.neuron.reset, one.neuron.timing) for one in counts if convolution & kinds(one)}

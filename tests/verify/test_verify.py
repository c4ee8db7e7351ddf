"""`verify` catches what it is for: one changed weight, shift or comparator, in any file, named where it first shows."""

import json
import re
import shutil
import subprocess
import sysconfig
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from quantal.export.base.errors import BadInput
from quantal.export.build import Build
from quantal.export.cli import verify
from quantal.export.ir.interpret import Trace
from quantal.export.run import EXECUTORS
from quantal.export.run.verify import Reference
from quantal.export.verify import vectors
from quantal.export.verify.probes import probe
from support.commands import Done, quantal
from support.faults import FAULTS, KINDS
from support.layers import replace
from support.networks import lively, write
from support.torch_networks import three_layers
from support.verifying import rows_of, sign, values_of

pytest.importorskip("onnxruntime")
pytest.importorskip("unicorn")
pytest.importorskip("ziglang")


# ---- builds


def run(build: Build, executor: str) -> Trace:
    with EXECUTORS[executor](build) as runner:
        return runner(build.vectors()[0])


def first_difference(reference: Trace, got: Trace) -> dict[str, Any] | None:
    """By hand: the first sample, in it the first step, in it the first record, in it the first neuron."""
    samples, steps, _ = reference["output"].shape
    for sample in range(samples):
        for step in range(steps):
            for record, values in reference.items():
                for neuron, expected in enumerate(values[sample, step].tolist()):
                    if got[record][sample, step, neuron] != expected:
                        layer, name = record.split(".") if "." in record else ("output", "output")
                        place = {"sample": sample, "step": step, "layer": layer, "neuron": neuron, "record": name}
                        return place | {"expected": expected, "got": int(got[record][sample, step, neuron])}
    return None


def with_a_fault(build: Build, executor: str, kind: str, folder: Path) -> Build:
    """A copy of the build with the first fault of that kind in the executor's file that shows on the vectors."""
    copied = replace(build, path=shutil.copytree(build.path, folder))
    _, reference = build.vectors()
    name, faults = FAULTS[executor]
    original = (build.path / name).read_bytes()
    for content in faults(original if name.endswith(".onnx") else original.decode(), kind):
        (copied.path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with suppress(BadInput):  # what can no longer be proven does not even load
            if first_difference(reference, run(Build.open(copied.path), executor)) is not None:
                return Build.open(copied.path)
    raise AssertionError(f"no {kind} in {name} matters on these vectors")


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A build in which all is well: coarse states, so that membranes often equal their thresholds."""
    options: dict[str, Any] = {"states": 4, "weights": 3, "reset": "zero", "timing": "immediate"}
    network, x = lively(lambda seed: three_layers(seed, **options), range(1000), 5, 7)
    return write(network, tmp_path_factory.mktemp("good") / "build", "model", x)


@pytest.fixture
def spoiled(good: Build, tmp_path: Path) -> Build:
    """A copy of it, free to spoil."""
    return replace(good, path=shutil.copytree(good.path, tmp_path / "build"))


def good_row(build: Build, executor: str, samples: int = 5, *, asked: bool = True) -> dict[str, Any]:
    """`asked`: functions are called too, as they are where the run itself is equal."""
    sizes = sum(layer.size for layer in build.network.layers for _ in layer.records()) + build.network.outputs
    values = samples * 7 * sizes + asked * answers(build, executor, samples)
    counts = {"samples": samples, "steps": samples * 7, "values": values, "mismatches": 0}
    return {"executor": executor, **counts, "first": None}


def answers(build: Build, executor: str, samples: int) -> int:
    """How many values the functions give that an executor has beside its run."""
    x, reference = build.vectors()
    first = {name: values[:samples] for name, values in reference.items()}
    asked = probe(build.network, x[:samples], first, build.macros)
    if executor in ("interpreter", "onnx"):
        return 0
    expected = asked.of_simulator() if executor == "simulator" else asked.of_header()
    return sum(values.size for values in expected.values()) + (executor == "c-host")


def complaint(row: dict[str, Any], values: dict[str, int]) -> str:
    f = row["first"]
    return (
        f"quantal: {row['executor']}: {row['mismatches']} mismatches; first: sample {f['sample']}, step {f['step']}, "
        f"layer {f['layer']}, {f['record']} of neuron {f['neuron']}: expected {f['expected']}, got {f['got']}"
        + (f"; by network.json there: {', '.join(f'{k} {v}' for k, v in values.items())}" if values else "")
    )


# ---- what verify says of it


def test_all_is_well_on_every_executor_and_every_value_was_compared(good: Build) -> None:
    done = quantal("verify", good.path, "--json")
    assert (done.code, done.err) == (0, "")
    assert rows_of(done) == [good_row(good, executor) for executor in EXECUTORS]


def test_the_table_shows_the_same_numbers(good: Build) -> None:
    done = quantal("verify", good.path, "--on", "simulator", "--on", "interpreter")
    keys = ("samples", "steps", "values", "mismatches")
    expected = [good_row(good, executor) for executor in ("simulator", "interpreter")]
    titles, *rows = [line.split() for line in done.out.splitlines()]
    assert (done.code, done.err) == (0, "")
    assert titles == ["executor", "samples", "steps", "values", "mismatches"]
    assert rows == [[row["executor"], *(f"{row[key]:,}" for key in keys)] for row in expected]


@pytest.mark.parametrize("signed", [False, True], ids=["changed later", "made so"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("executor", FAULTS)
def test_a_single_fault_is_found_and_its_first_effect_named(
    executor: str, kind: str, signed: bool, good: Build, tmp_path: Path
) -> None:
    build = with_a_fault(good, executor, kind, tmp_path / "build")
    if signed:
        sign(build.path)
    _, reference = good.vectors()
    got = run(build, executor)
    mismatches = sum(int((got[name] != values).sum()) for name, values in reference.items())
    first = first_difference(reference, got)
    done = quantal("verify", build.path, "--on", executor, "--json")
    assert done.code == 1
    assert first is not None
    values = values_of(done)
    layer = next(layer for layer in good.network.layers if layer.name == first["layer"])
    label = layer.labels[dict(layer.records())[f"{first['layer']}.{first['record']}"]]
    assert values[label] == first["got" if executor == "interpreter" else "expected"]  # whose network.json it is
    assert {"current", "code"} <= set(values)
    found = {"mismatches": mismatches, "first": first}
    expected = good_row(good, executor, asked=False) | found
    assert rows_of(done) == [expected]
    changed = (
        f"quantal: {build.path / FAULTS[executor][0]}: changed since the export (MANIFEST.json has another sha256)"
    )
    assert done.err.splitlines() == [*([] if signed else [changed]), complaint(expected, values)]


def test_a_fault_in_one_file_leaves_the_other_executors_good(good: Build, tmp_path: Path) -> None:
    build = with_a_fault(good, "c-host", "shift", tmp_path / "build")
    sign(build.path)
    done = quantal("verify", build.path, "--json")
    in_c = {"c-host", "cortex-m0", "cortex-m4", "riscv32"}
    assert done.code == 1
    assert {row["executor"] for row in rows_of(done) if row["mismatches"]} == in_c
    assert len({json.dumps(row["first"]) for row in rows_of(done) if row["executor"] in in_c}) == 1
    assert [row for row in rows_of(done) if row["executor"] not in in_c] == [
        good_row(good, executor) for executor in EXECUTORS if executor not in in_c
    ]


def test_the_program_exits_with_1_and_says_it_in_one_line(good: Build, tmp_path: Path) -> None:
    build = with_a_fault(good, "interpreter", "weight", tmp_path / "build")
    sign(build.path)
    program = Path(sysconfig.get_path("scripts")) / "quantal"
    command = [program, "verify", build.path, "--on", "interpreter", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (row,) = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (1, complaint(row, row["first"]["values"]) + "\n")


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_sample_is_named_whatever_the_batches(
    size: int, good: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, trace = good.vectors()
    changed = {name: values.copy() for name, values in trace.items()}
    changed["second.u"][3, 2, 1] ^= 1
    changed["output"][4, 0, 0] ^= 1
    build = replace(good, path=shutil.copytree(good.path, tmp_path / "build"))
    (build.path / "vectors.npz").write_bytes(vectors.dumps(x, changed))
    sign(build.path)
    monkeypatch.setattr(verify, "BATCH", size)
    first = {"sample": 3, "step": 2, "layer": "second", "neuron": 1, "record": "u"}
    first |= {"expected": int(changed["second.u"][3, 2, 1]), "got": int(trace["second.u"][3, 2, 1])}
    done = quantal("verify", build.path, "--on", "interpreter", "--json")
    assert done.code == 1
    assert rows_of(done) == [good_row(good, "interpreter") | {"mismatches": 2, "first": first}]


@pytest.mark.parametrize("record", ["first.u", "second.spike", "output"])
def test_a_changed_value_of_the_vectors_fails_every_executor(record: str, good: Build, spoiled: Build) -> None:
    x, trace = good.vectors()
    changed = {name: values.copy() for name, values in trace.items()}
    changed[record][4, 6, 3] += 1
    (spoiled.path / "vectors.npz").write_bytes(vectors.dumps(x, changed))
    sign(spoiled.path)
    done = quantal("verify", spoiled.path, "--json")
    layer, _, name = record.rpartition(".")
    first = {"sample": 4, "step": 6, "layer": layer or "output", "neuron": 3, "record": name}
    first |= {"expected": int(trace[record][4, 6, 3]) + 1, "got": int(trace[record][4, 6, 3])}
    found = {"mismatches": 1, "first": first}
    expected = [good_row(good, executor, asked=False) | found for executor in EXECUTORS]
    assert (done.code, rows_of(done)) == (1, expected)
    assert done.err.splitlines() == [
        complaint(row, got["first"].get("values", {})) for row, got in zip(expected, json.loads(done.out), strict=True)
    ]


def test_a_changed_input_in_the_vectors_is_found(good: Build, spoiled: Build) -> None:
    x, trace = good.vectors()
    x[2, 0] = 1 - x[2, 0]
    (spoiled.path / "vectors.npz").write_bytes(vectors.dumps(x, trace))
    sign(spoiled.path)
    done = quantal("verify", spoiled.path, "--on", "simulator", "--json")
    (row,) = rows_of(done)
    assert (done.code, row["first"]["sample"], row["first"]["step"]) == (1, 2, 0)


FILES = ("network.json", "model.h", "model_test.c", "model_sim.py", "model.onnx", "vectors.npz")


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_in_any_file_fails_even_where_nothing_runs_it(name: str, spoiled: Build) -> None:
    assert {file.name for file in spoiled.path.iterdir()} == {*FILES, "MANIFEST.json"}
    path = spoiled.path / name
    path.write_bytes(path.read_bytes() + b"\n")
    done = quantal("verify", spoiled.path, "--on", "interpreter")
    line = f"quantal: {path}: changed since the export (MANIFEST.json has another sha256)\n"
    assert (done.code, done.err) == (1, line)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name: str, spoiled: Build) -> None:
    (spoiled.path / name).unlink()
    done = quantal("verify", spoiled.path)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"quantal: {spoiled.path / name}: ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_the_manifest_does_not_list_is_named(name: str, spoiled: Build) -> None:
    manifest = json.loads((spoiled.path / "MANIFEST.json").read_text())
    del manifest["files"][name]
    (spoiled.path / "MANIFEST.json").write_text(json.dumps(manifest))
    done = quantal("verify", spoiled.path)
    assert done == Done(2, "", f"quantal: {spoiled.path / 'MANIFEST.json'}: files: {name}: missing\n")


def test_a_header_that_does_not_compile_fails_in_a_line_each_and_the_others_still_run(
    good: Build, spoiled: Build
) -> None:
    text = spoiled.header.read_text()
    spoiled.header.write_text(text.replace("const int32_t spike = ", "const int32_t spike == ", 1))
    sign(spoiled.path)
    done = quantal("verify", spoiled.path, "--json")
    assert done.code == 1
    in_c = ("c-host", "cortex-m0", "cortex-m4", "riscv32")
    empty = {"samples": 0, "steps": 0, "values": 0, "mismatches": 0, "first": None}
    expected = [{"executor": e} | empty if e in in_c else good_row(good, e) for e in EXECUTORS]
    rows = rows_of(done)
    errors = [row.pop("error") for row in rows if row["executor"] in in_c]
    assert rows == expected
    assert [
        f"quantal: {executor}: {error}" for executor, error in zip(in_c, errors, strict=True)
    ] == done.err.splitlines()
    lines = done.err.splitlines()
    assert len(lines) == len(in_c)
    for executor, line in zip(in_c, lines, strict=True):
        assert line.startswith(f"quantal: {executor}: {spoiled.header}: does not compile")
        assert "error: " in line


def test_a_program_that_stops_early_fails(spoiled: Build) -> None:
    text = spoiled.test_program.read_text()
    spoiled.test_program.write_text(text.replace("t < steps", "t < steps - 1", 1))
    sign(spoiled.path)
    done = quantal("verify", spoiled.path, "--on", "c-host")
    assert done.code == 1
    assert re.fullmatch(
        rf"quantal: c-host: {re.escape(str(spoiled.test_program))}: exit code \d+, \d+ bytes written\n", done.err
    )


def test_an_executor_that_compared_nothing_fails(good: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "reference_for", lambda *_: (Reference(0, lambda _: iter(())), ()))
    done = quantal("verify", good.path, "--on", "interpreter")
    assert (done.code, done.err) == (1, "quantal: interpreter: nothing was compared\n")


@pytest.mark.parametrize("samples", [1, 4, 5])
def test_samples_compares_that_many(samples: int, good: Build) -> None:
    done = quantal("verify", good.path, "--on", "onnx", "--samples", samples, "--json")
    assert (done.code, rows_of(done)) == (0, [good_row(good, "onnx", samples)])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--on", "cortex-m9"), ("'cortex-m9'", *EXECUTORS)),
        (("--on", ""), ("''", *EXECUTORS)),
        (("--samples", "6"), ("--samples", "5 samples")),
        (("--samples", "0"), ("--samples", "0")),
        (("--data", "x"), ("--data", "--run")),
        (("--samplez", "1"), ("--samplez",)),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(
    arguments: tuple[str, ...], words: tuple[str, ...], good: Build
) -> None:
    done = quantal("verify", good.path, *arguments)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert [word for word in words if word not in done.err] == []

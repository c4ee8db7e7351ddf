"""The Python interface: every name has an example that runs, and what is malformed gets one line."""

import ast
import doctest
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quantal
from quantal.qat.training.run import Run
from support.messages import one_line
from support.sources import ROOT

FUNCTIONS = [name for name in quantal.__all__ if callable(getattr(quantal, name)) and name[0].islower()]


def run_examples(name: str, text: str, names: dict[str, Any]) -> dict[str, Any]:
    """Runs the examples of a docstring, which must print what they say; the names that they leave."""
    test = doctest.DocTestParser().get_doctest(text, names, name, name, 0)
    assert test.examples, name
    told: list[str] = []
    doctest.DocTestRunner(verbose=False).run(test, out=told.append, clear_globs=False)
    assert not told, "".join(told)
    return test.globs


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder, and the names that the examples of the package leave, which ran in it."""
    folder = tmp_path_factory.mktemp("tour")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, run_examples("quantal", str(quantal.__doc__), {"np": np})


@pytest.fixture
def there(tour: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """These names, in a copy of that folder."""
    folder, names = tour
    monkeypatch.chdir(shutil.copytree(folder, tmp_path / "tour"))
    return names | {name: quantal.load_run(name) for name in ("full", "run")}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_example_of_each_function_runs(name: str, there: dict[str, Any]) -> None:
    run_examples(name, str(getattr(quantal, name).__doc__), there)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_tells_what_it_raises(name: str) -> None:
    words = str(getattr(quantal, name).__doc__)
    assert "    Raises " in words or "Raises nothing." in words


def test_what_is_imported_is_what_is_listed() -> None:
    tree = ast.parse(Path(str(quantal.__file__)).read_text("utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported - {"Any", "TYPE_CHECKING"} == set(quantal.__all__)
    assert dir(quantal) == sorted(quantal.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lowr'"):
        quantal.lowr  # noqa: B018


SLOWEST = 0.2
LAZY = """
import sys, time
start = time.perf_counter()
import quantal
took = time.perf_counter() - start
quantal.BadInput, quantal.__version__
assert not {"torch", "numpy", "quantal._builds"} & set(sys.modules)
quantal.load_build, quantal.save_build, quantal.verify, quantal.cost, quantal.trace, quantal.CORES
assert not {"torch", "scipy", "sklearn", "safetensors", "quantal.qat"} & set(sys.modules)
print(took)
"""


def test_importing_it_takes_no_time_and_builds_take_no_torch() -> None:
    took = [
        float(subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    assert min(took) < SLOWEST


def test_parameters_are_those_of_the_checkpoint_and_come_back(there: dict[str, Any]) -> None:
    full = there["full"]
    values = {name: 0.5 * value for name, value in quantal.parameters(full).items()}
    quantal.set_parameters(full, values)
    quantal.save_run(full)
    found = quantal.parameters(quantal.load_run("full"))
    assert found.keys() == values.keys()
    assert all((found[name] == values[name]).all() for name in values)


def test_every_learned_tensor_of_the_golden_runs_but_the_scales_is_a_parameter() -> None:
    scales = {"unit_gain", "ranges", "quantizer.reach_gain"}
    for folder in sorted((ROOT / "golden").glob("*/run")):
        run = quantal.load_run(folder)
        learned = {name.split(".", 2)[2] for name, _ in run.network.named_parameters()} - scales
        listed = {name.partition(".")[2] for name in quantal.parameters(run)}
        assert learned <= listed, folder


def nan(shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, np.nan)


MAQD = "weights = 'maqd'"
REFUSED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no such run": (lambda t: quantal.load_run("nowhere"), "nowhere: no such run folder"),
    "no such build": (lambda t: quantal.load_build("nowhere"), "nowhere: no such build folder"),
    "no TOML": (lambda t: quantal.load_data("x ="), "config: not TOML"),
    "no data": (lambda t: quantal.load_data(t["real"].replace("digits", "npz")), "npz: data: expected an .npz file"),
    "a file of TOML": (lambda t: quantal.load_data(Path("nowhere.toml")), "nowhere.toml"),
    "a folder that is taken": (lambda t: quantal.new_run("full", t["real"], t["data"]), "full: already exists"),
    "a method": (lambda t: quantal.quantize(t["full"], "x", t["coarse"], t["data"], "best"), "method: expected one of"),
    "gpfq": (
        lambda t: quantal.quantize(t["full"], "x", t["coarse"].replace("weights = 4", MAQD), t["data"], "gpfq"),
        "method: gpfq chooses codes of lsq",
    ),
    "another network": (
        lambda t: quantal.quantize(t["full"], "x", t["coarse"].replace("size = 16", "size = 17"), t["data"]),
        "start: layer hidden: size: its own is 16",
    ),
    "a parameter": (lambda t: quantal.set_parameters(t["full"], {"hidden.wieght": 0}), "hidden.wieght: no parameter"),
    "a shape": (
        lambda t: quantal.set_parameters(t["full"], {"hidden.weight": np.zeros((64, 16))}),
        "hidden.weight: expected real numbers (16, 64), got float64 (64, 16)",
    ),
    "NaN": (lambda t: quantal.set_parameters(t["full"], {"hidden.bias": nan((16,))}), "hidden.bias: expected finite"),
    "a decay": (lambda t: quantal.set_parameters(t["full"], {"hidden.decay": [1.5]}), "hidden.decay: 1.5 is beyond"),
    "a threshold": (
        lambda t: quantal.set_parameters(t["full"], {"hidden.threshold": -np.ones(16)}),
        "full: layer hidden: threshold: expected positive numbers",
    ),
    "epochs": (lambda t: quantal.train(t["full"], t["data"], -1), "epochs: expected an integer from 0, got -1"),
    "full precision": (lambda t: quantal.lower(t["full"], "x"), "layer hidden: weights: full precision"),
    "a name": (lambda t: quantal.lower(t["run"], "stdint"), "name: 'stdint': stdint.h is a header of the C standard"),
    "channels": (lambda t: quantal.encode(t["run"], np.zeros((3, 5), int)), "x: expected (samples, …, 64 channels)"),
    "fractions": (lambda t: quantal.trace(t["build"], np.zeros((1, 4, 64))), "x: expected integers (samples, steps"),
    "too large": (lambda t: quantal.trace(t["run"], np.full((1, 4, 64), 99)), "x: expected values 0..16, got 99..99"),
    "an executor": (lambda t: quantal.verify(t["build"], on="avr"), "on: expected one of interpreter"),
    "a core": (lambda t: quantal.cost(t["build"], "avr"), "core: expected one of cortex-m0"),
    "too many samples": (lambda t: quantal.verify(t["build"], samples=99), "samples: build holds vectors of 32"),
    "data without a run": (lambda t: quantal.verify(t["build"], data="x"), "data: torch has to run"),
    "vectors": (
        lambda t: quantal.save_build("x", t["build"].network, t["build"].vectors()[0], {"output": np.zeros(3)}),
        "golden: hidden.spike: expected exactly the records",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_malformed_input_is_refused_in_one_line(case: str, there: dict[str, Any]) -> None:
    call, words = REFUSED[case]
    before = quantal.parameters(there["full"])
    with pytest.raises(quantal.BadInput) as error:
        call(there)
    assert one_line(error).startswith(words)
    assert not Path("x").exists()
    after = quantal.parameters(there["full"])
    assert all((before[name] == after[name]).all() for name in before)


def test_a_build_that_was_changed_is_no_good_one(there: dict[str, Any], tmp_path: Path) -> None:
    build = quantal.export_run(there["run"], tmp_path / "build")
    build.header.write_text(build.header.read_text("utf-8") + "\n", "utf-8")
    changed = quantal.load_build(build.path)
    assert len(changed.complaints) == 1
    with pytest.raises(quantal.ExecutorError, match="changed since the export"):
        quantal.verify(changed)
    with pytest.raises(quantal.BadInput, match="changed since the export"):
        quantal.cost(changed, "cortex-m0")


def test_a_run_is_what_the_rest_of_the_package_calls_one(there: dict[str, Any]) -> None:
    assert isinstance(there["run"], Run)

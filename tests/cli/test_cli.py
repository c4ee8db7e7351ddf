"""The command line: help everywhere, exit codes, and `verify` against the run itself; helpers for whoever calls it."""

import json
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from quantal.export import __version__
from quantal.export.base.errors import ExecutorError
from quantal.qat.data.encoding import encode
from support.commands import MAIN, NETWORK, Done, contents, program, quantal, succeed

WITHOUT_TORCH = f"import sys; sys.modules['torch'] = None; {MAIN}"

OPTIONS = {
    "": ["--version"],
    "demo": ["--out"],
    "train": [
        *("--task", "--data", "--network", "--preset", "--weights", "--states", "--weight-quantizer"),
        *("--state-quantizer", "--from", "--calibration", "--epochs", "--seed", "--compare", "--resume", "--out"),
    ],
    "prune": ["RUN", "--keep", "--layer", "--data", "--out"],
    "export": ["RUN", "--out", "--name"],
    "verify": ["BUILD", "--on", "--run", "--data", "--samples", "--timeout", "--json"],
    "cost": ["BUILD", "--core", "--json"],
}


@pytest.mark.parametrize("command", OPTIONS)
def test_help_names_every_option(command: str) -> None:
    done = succeed(*command.split(), "--help")
    assert done.out.startswith(f"Usage: quantal {command}".rstrip())
    words = done.out.split()
    assert [option for option in OPTIONS[command] if option not in words] == []


def test_the_help_names_every_command_and_needs_no_torch() -> None:
    done = program("--help", main=WITHOUT_TORCH)
    assert (done.code, done.err) == (0, "")
    listed = done.out.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == ["demo", "train", "prune", "export", "verify", "cost"]


def test_quantal_alone_gives_the_help() -> None:
    assert succeed() == succeed("--help")


def test_version() -> None:
    assert succeed("--version").out == f"quantal, version {__version__}\n"


def test_only_what_needs_torch_asks_for_it(trained: Path, tmp_path: Path) -> None:
    done = program("verify", trained / "build", "--on", "interpreter", "--on", "simulator", main=WITHOUT_TORCH)
    assert (done.code, done.err) == (0, "")
    done = program("train", "--task", "digits", "--out", tmp_path / "run", main=WITHOUT_TORCH)
    assert (done.code, done.err) == (2, "quantal: this needs torch, which is not installed here: pip install quantal\n")


def test_export_lists_what_it_wrote(place: Path) -> None:
    lines = succeed("export", "run", "--out", "again", "--name", "tiny").out.splitlines()
    listed = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in lines}
    assert listed == {str(p.relative_to(place)): p.stat().st_size for p in (place / "again").iterdir()}
    assert {"again/tiny.h", "again/tiny_sim.py", "again/tiny_test.c", "again/tiny.onnx"} < set(listed)


def test_two_exports_of_one_run_are_byte_identical(place: Path) -> None:
    succeed("export", "run", "--out", "again")
    assert contents(place / "again") == contents(place / "build")


def test_verify_prints_one_row_for_each_executor(place: Path) -> None:
    rows = json.loads(succeed("verify", "build", "--on", "interpreter", "--on", "c-host", "--json").out)
    assert [row.pop("executor") for row in rows] == ["interpreter", "c-host"]
    values = 32 * 4 * (12 + 12 + 10 + 10)  # hidden: membrane and spike; readout: membrane; the output once more
    assert rows[0] == {"samples": 32, "steps": 32 * 4, "values": values, "mismatches": 0, "first": None}
    assert rows[1].pop("values") > rows[0].pop("values")  # its functions are called too
    assert rows[1] == rows[0]


@pytest.mark.parametrize(("arguments", "samples"), [((), 32), (("--samples", 50), 50)])
def test_verify_against_the_run_finds_no_mismatch(place: Path, arguments: tuple[object, ...], samples: int) -> None:
    done = succeed(
        "verify",
        "build",
        "--run",
        "run",
        *arguments,
        "--on",
        "interpreter",
        "--on",
        "simulator",
        "--on",
        "c-host",
        "--json",
    )
    rows = json.loads(done.out)
    assert [(row["samples"], row["mismatches"]) for row in rows] == 3 * [(samples, 0)]
    assert rows[0]["values"] == samples * 4 * 44
    assert all(row["values"] > samples * 4 * 44 for row in rows[1:])  # functions are called too


def test_verify_on_data_encodes_it_as_in_training(place: Path) -> None:
    """The data at hand may have a smaller greatest value than the training set's: that must not rescale it."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 201, (30, 3)), np.arange(30) % 2
    np.savez("all.npz", x=x, y=y)
    np.savez("dim.npz", x=x // 2, y=y)
    (place / "npz.toml").write_text(
        NETWORK.replace("digits", "npz").replace("steps = 4", 'steps = 6\nkind = "latency"').replace("10", "2")
    )
    succeed("train", "--network", "npz.toml", "--data", "all.npz", "--out", "npz_run")
    succeed("export", "npz_run", "--out", "npz_build")
    arguments = ("verify", "npz_build", "--run", "npz_run", "--data", "dim.npz", "--on", "interpreter")
    with mock.patch("quantal.qat.training.run.encode", wraps=encode) as encoding:
        succeed(*arguments)
    assert [call.kwargs["maximum"] for call in encoding.call_args_list] == [x.max()]


def test_verify_against_another_run_fails(place: Path) -> None:
    line = "quantal: other: this run lowers to another network than the one in build"
    succeed("train", "--network", "net.toml", "--seed", 1, "--out", "other")
    done = quantal("verify", "build", "--run", "other", "--on", "interpreter", "--json")
    assert done.code == 1
    assert done.err.splitlines()[0] == line
    assert json.loads(done.out)[0]["mismatches"] > 0


def test_verify_against_a_run_of_another_shape_fails_at_once(place: Path) -> None:
    (place / "net.toml").write_text(NETWORK.replace("size = 12", "size = 13"))
    succeed("train", "--network", "net.toml", "--out", "other")
    line = "quantal: other: this run lowers to another network than the one in build\n"
    assert quantal("verify", "build", "--run", "other", "--on", "interpreter") == Done(1, "", line)


def test_verify_fails_where_the_network_was_changed(place: Path) -> None:
    path = place / "build" / "network.json"
    document = json.loads(path.read_text())
    rows = document["layers"][1]["weights"]["fan_in"]["rows"]
    rows[0] = " ".join(str(-int(code)) for code in rows[0].split())
    path.write_text(json.dumps(document))
    done = quantal("verify", "build", "--on", "interpreter", "--json")
    assert done.code == 1
    (row,) = json.loads(done.out)
    assert row["mismatches"] > 0
    assert row["first"]["layer"] == "readout"
    changed, mismatch = done.err.splitlines()
    assert changed == "quantal: build/network.json: changed since the export (MANIFEST.json has another sha256)"
    assert mismatch.startswith(f"quantal: interpreter: {row['mismatches']} mismatches; first: sample 0, ")


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("", "has no attribute 'run'"),
        ("raise SystemExit(0)", "does not load (SystemExit: 0)"),
        ("def run(x): raise SystemExit(0)", "fails to run (SystemExit: 0)"),
        ("def run(x): return None", "fails to run (AttributeError"),
        ("def run(x): return {}", "hidden.u: expected integers (32, 4, 12), got float64 (0,)"),
        ("def run(x): return {'hidden.u': x[:, :, :12] * 1.0}", "hidden.u: expected integers (32, 4, 12), got float64"),
        (
            "def run(x): return {'hidden.u': x[:, :, :1]}",
            "hidden.u: expected integers (32, 4, 12), got int64 (32, 4, 1)",
        ),
    ],
)
def test_verify_fails_on_a_simulator_that_does_something_else(place: Path, lines: str, why: str) -> None:
    (place / "build" / "digits_sim.py").write_text(lines)
    done = quantal("verify", "build", "--on", "simulator")
    assert done.code == 1
    changed, complaint = done.err.splitlines()
    assert changed.startswith("quantal: build/digits_sim.py: changed")
    assert complaint.startswith("quantal: simulator: ")
    assert why in complaint


def test_what_does_not_run_is_a_failed_check(place: Path) -> None:
    with mock.patch("quantal.export.cli.verify.run_executors", side_effect=ExecutorError("it stopped")):
        assert quantal("verify", "build") == Done(1, "", "quantal: it stopped\n")


def test_ctrl_c_is_an_interruption(place: Path) -> None:
    with mock.patch("quantal.export.build.Build.open", side_effect=KeyboardInterrupt):
        done = quantal("verify", "build")
    assert (done.code, done.out, done.err.strip()) == (130, "", "quantal: interrupted")


def test_a_file_that_fails_is_named(place: Path) -> None:
    with mock.patch("quantal.export.build.Build.open", side_effect=OSError(28, "No space left on device", "build/x")):
        assert quantal("verify", "build") == Done(2, "", "quantal: build/x: No space left on device\n")


@pytest.mark.parametrize("columns", ["0", "1", "80"])
def test_a_table_is_whole_however_wide_the_terminal_is(
    columns: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    (place / "build" / "digits_sim.py").write_text(f"raise ValueError('{'a long story, ' * 20}')")
    done = quantal("verify", "build", "--on", "interpreter", "--on", "simulator")
    titles, first, second = done.out.splitlines()
    assert titles == "executor     samples  steps  values  mismatches"
    assert first == "interpreter       32    128   5,632           0"
    assert second.startswith(
        "simulator          0      0       0           0  build/digits_sim.py: does not load (ValueError: "
    )
    assert second.endswith("a long story, )")
    assert second.partition("  build/")[2] in done.err

"""What hangs is stopped, and said to be; the others run, and what is measured is shown."""

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from quantal.export.base import process, toolchain
from quantal.export.base.errors import BadInput
from quantal.export.base.process import Stopped
from quantal.export.build import Build
from quantal.export.run import EXECUTORS, python
from quantal.export.run.bounds import Bounds
from support.commands import MAIN, Done, quantal
from support.networks import lively, write
from support.torch_networks import three_layers
from support.verifying import rows_of, sign

pytest.importorskip("onnxruntime")
pytest.importorskip("unicorn")
pytest.importorskip("ziglang")

LOOP = "    for (;;) {\n    }\n"


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Build:
    network, x = lively(lambda seed: three_layers(seed), range(50), 6, 3)
    return write(network, tmp_path_factory.mktemp("bounded") / "build", "model", x)


@pytest.fixture
def spoiled(good: Build, tmp_path: Path) -> Build:
    """A copy of it, free to spoil."""
    return replace(good, path=shutil.copytree(good.path, tmp_path / "build"))


def change(build: Build, path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    sign(build.path)


def with_a_loop(build: Build, function: str) -> None:
    """Puts a loop without an end into a function of the header."""
    text = build.header.read_text(encoding="utf-8")
    defined = re.search(rf"^\w+ model_{function}\([^;{{]*\)\n\{{\n", text, re.MULTILINE)
    assert defined is not None
    build.header.write_text(text[: defined.end()] + LOOP + text[defined.end() :], encoding="utf-8")
    sign(build.path)


def errors(done: Done) -> dict[str, str | None]:
    return {row["executor"]: row.get("error") for row in rows_of(done)}


# ---- programs

HOLDER = """
import fcntl, os, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
while True:
    time.sleep(1)
"""
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]], stdout=subprocess.PIPE)
child.stdout.readline()
while True:
    sys.stdout.write("x" * 1000)
"""


def test_a_program_that_writes_too_much_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with pytest.raises(Stopped, match=r"^stopped when it wrote more than the 5,000 bytes of its answer$"):
        process.run([sys.executable, "-c", PARENT, HOLDER, lock], seconds=600, most=5000)
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # waits for ever where the lock is held on


WATCHED = """
import sys
from quantal.export.base import process
process.run([sys.executable, "-c", sys.argv[1], sys.argv[2]], seconds=600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_program_ends_with_the_one_that_runs_it_whatever_ends_that(number: int, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    runner = subprocess.Popen([sys.executable, "-c", WATCHED, HOLDER, lock])
    until(lambda: lock.exists() and not free(lock))
    runner.send_signal(number)
    assert runner.wait(60) == -number
    until(lambda: free(lock))


def test_a_command_that_is_terminated_leaves_no_program_and_no_scratch_file(spoiled: Build, tmp_path: Path) -> None:
    scratch, lock = tmp_path / "scratch", tmp_path / "lock"
    scratch.mkdir()
    holding = HOLDER.replace("sys.argv[1]", repr(str(lock)))
    change(spoiled, spoiled.simulator, "import sys\n", f"import sys\n{holding}")
    command = [sys.executable, "-c", MAIN, "verify", spoiled.path, "--on", "simulator"]
    verify = subprocess.Popen(command, env=os.environ | {"TMPDIR": str(scratch)})
    until(lambda: lock.exists() and not free(lock))
    assert list(scratch.iterdir())
    verify.terminate()
    assert verify.wait(60) == 143
    until(lambda: free(lock))
    assert not list(scratch.iterdir())


def free(lock: Path) -> bool:
    """Whether nobody holds the lock."""
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def until(condition: Callable[[], bool]) -> None:
    """Waits for it, a minute at most."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


limited = pytest.mark.skipif(sys.platform != "linux", reason="the system bounds no memory of other processes")
GROWING = "held = []\nwhile True:\n    held.append(bytes(1 << 24))\n"


@limited
@pytest.mark.parametrize("way", [[], ["sh", "-c", '"$@" & wait $!', "sh"]], ids=["itself", "child"])
def test_a_program_gets_no_more_memory_than_what_is_said(way: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTAL_MEMORY", "0.25")
    done = process.run([*way, sys.executable, "-c", GROWING], seconds=60)
    assert (done.code, done.err.splitlines()[-1]) == (1, b"MemoryError")


def test_a_program_that_does_not_end_is_stopped() -> None:
    with pytest.raises(Stopped, match=r"^stopped after 1 s without an answer$"):
        process.run([sys.executable, "-c", "while True: pass"], seconds=1)


def test_what_a_program_leaves_is_given(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"abc")
    text = "import sys; sys.stdout.write(sys.stdin.read()[::-1]); sys.stderr.write('e' * 3_000_000); sys.exit(3)"
    done = process.run([sys.executable, "-c", text], seconds=600, most=3, stdin=tmp_path / "in")
    assert (done.code, done.out, done.err[:5]) == (3, b"cba", b"eeeee")


def test_bounds_grow_with_the_work(good: Build) -> None:
    bounds = Bounds()
    few, many = (bounds.of_process(good.network, samples, 100) for samples in (10, 1_000_000))
    assert 120 <= few < many
    assert Bounds(7).of_process(good.network, 1_000_000, 100) == 7
    assert bounds.of_call(good.network) < bounds.of_call(good.network, 100)


# ---- executors


def test_a_header_that_hangs_is_stopped_here_and_the_others_run(spoiled: Build) -> None:
    with_a_loop(spoiled, "step")
    done = quantal(
        "verify", spoiled.path, "--on", "c-host", "--on", "cortex-m4", "--on", "interpreter", "--timeout", 1, "--json"
    )
    found = errors(done)
    most = Bounds().of_call(spoiled.network)
    assert done.code == 1
    assert found["c-host"] == "stopped after 1 s without an answer"
    assert f"harness_step: stopped after {most:,} instructions at pc" in str(found["cortex-m4"])
    assert found["interpreter"] is None
    assert [row["values"] > 0 for row in rows_of(done)] == [False, False, True]
    assert done.err.splitlines() == [f"quantal: {name}: {found[name]}" for name in ("c-host", "cortex-m4")]


@pytest.mark.parametrize("function", ["reset", "argmax", "classify", "self_test"])
def test_any_function_that_hangs_on_a_core_is_stopped_after_instructions(function: str, spoiled: Build) -> None:
    with_a_loop(spoiled, function)
    done = quantal("verify", spoiled.path, "--on", "riscv32", "--json")
    (row,) = rows_of(done)
    assert done.code == 1
    assert "instructions at pc" in row["error"]
    assert (row["values"] > 0) == (function != "reset")  # what was compared before is told


def test_the_table_says_who_was_stopped(spoiled: Build) -> None:
    with_a_loop(spoiled, "step")
    done = quantal("verify", spoiled.path, "--on", "interpreter", "--on", "c-host", "--timeout", 4)
    _, interpreter, host = done.out.splitlines()
    assert interpreter.split()[-1] == "0"
    assert host.endswith("0  stopped after 4 s without an answer")


@pytest.mark.parametrize(
    ("old", "new"),
    [("import sys\n", "while True:\n    pass\n"), ("    x = np.asarray(x)\n", "    while True:\n        pass\n")],
)
def test_a_simulator_that_hangs_is_stopped(old: str, new: str, spoiled: Build) -> None:
    change(spoiled, spoiled.simulator, old, new)
    done = quantal("verify", spoiled.path, "--on", "simulator", "--on", "interpreter", "--timeout", 1, "--json")
    assert done.code == 1
    assert errors(done) == {"simulator": "stopped after 1 s without an answer", "interpreter": None}


def test_an_onnx_model_that_hangs_is_stopped(spoiled: Build) -> None:
    model = onnx.load(spoiled.onnx)
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("Identity", ["carried"], ["handed"])],
        "body",
        [
            helper.make_tensor_value_info("count", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.INT32, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("handed", TensorProto.INT32, None),
        ],
    )
    last = next(node for node in model.graph.node if node.output[0] == "output")
    model.graph.initializer.append(helper.make_tensor("true", TensorProto.BOOL, [], [True]))
    loop = helper.make_node("Loop", ["", "true", last.input[0]], ["output"], body=body)
    model.graph.node.remove(last)
    model.graph.node.append(loop)
    onnx.checker.check_model(model)
    spoiled.onnx.write_bytes(model.SerializeToString())
    sign(spoiled.path)
    done = quantal("verify", spoiled.path, "--on", "onnx", "--on", "interpreter", "--timeout", 2, "--json")
    assert done.code == 1
    assert errors(done) == {"onnx": "stopped after 2 s without an answer", "interpreter": None}


@pytest.mark.parametrize("given", [(), ("--timeout", 1)])
def test_a_compiler_that_hangs_is_tried_once_and_stopped(
    given: tuple[object, ...], good: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nwhile :; do :; done\n')
    compiler.chmod(0o755)
    monkeypatch.setattr(toolchain, "host_compiler", lambda _: [str(compiler)])
    if not given:
        monkeypatch.setattr(toolchain, "SECONDS", 1)
    done = quantal("verify", good.path, "--on", "c-host", "--on", "interpreter", "--json", *given)
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    assert done.code == 1
    why = f"{good.header}: does not compile (stopped after 1 s without an answer)"
    assert errors(done) == {"c-host": why, "interpreter": None}


@limited
def test_a_simulator_that_grows_is_stopped(spoiled: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTAL_MEMORY", "1")
    change(spoiled, spoiled.simulator, "import sys\n", GROWING)
    done = quantal("verify", spoiled.path, "--on", "simulator", "--on", "interpreter", "--timeout", 60, "--json")
    assert (done.code, errors(done)["interpreter"]) == (1, None)
    assert "MemoryError" in str(errors(done)["simulator"])


@limited
def test_a_header_that_takes_a_compiler_too_much_memory_is_said_to(
    spoiled: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTAL_MEMORY", "0.06")
    numbers = ",".join(map(str, range(2_000_000)))
    include = "#include <stdint.h>\n"
    change(spoiled, spoiled.header, include, f"{include}static const int32_t large[] = {{{numbers}}};\n")
    done = quantal("verify", spoiled.path, "--on", "c-host", "--on", "cortex-m0", "--json")
    assert done.code == 1
    for error in errors(done).values():
        assert "emory" in str(error)
        assert str(error).endswith("QUANTAL_MEMORY sets how many GiB it may take)")


def test_a_header_without_an_end_is_not_compiled(spoiled: Build) -> None:
    with spoiled.header.open("r+b") as file:
        file.truncate(2**33)
    spoiled = replace(spoiled, complaints=())
    for executor in ("c-host", "cortex-m0"):
        with pytest.raises(BadInput, match=r"expected at most 268,435,456 bytes"), EXECUTORS[executor](spoiled):
            pass


@pytest.mark.parametrize("name", ["a\\b", 'x "y', "a\nb"])
def test_a_build_may_lie_anywhere(name: str, good: Build, tmp_path: Path) -> None:
    build = shutil.copytree(good.path, tmp_path / name)
    compiled = ("c-host", "cortex-m4", "riscv32")
    done = quantal("verify", build, *(word for on in compiled for word in ("--on", on)), "--json")
    assert (done.code, errors(done)) == (0, dict.fromkeys(compiled))
    assert quantal("cost", build, "--core", "cortex-m0").code == 0


def test_a_comment_in_another_encoding_is_no_fault(spoiled: Build) -> None:
    spoiled.header.write_bytes(b"/* \xff */\n" + spoiled.header.read_bytes())
    sign(spoiled.path)
    assert quantal("verify", spoiled.path, "--on", "c-host").code == 0


# ---- what cannot run here


def test_a_missing_package_takes_no_row_from_the_others(good: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "unicorn", None)
    done = quantal("verify", good.path, "--json")
    found = errors(done)
    assert done.code == 2
    assert list(found) == list(EXECUTORS)
    assert [name for name, why in found.items() if why is None] == ["interpreter", "simulator", "c-host"]
    assert all("pip install 'quantal[verify]'" in str(why) for why in found.values() if why is not None)
    assert len(done.err.splitlines()) == 4


def test_a_mismatch_counts_for_more_than_a_missing_package(spoiled: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    change(spoiled, spoiled.simulator, "argmax(axis=1)", "argmin(axis=1)")
    done = quantal("verify", spoiled.path, "--on", "onnx", "--on", "simulator", "--json")
    assert (done.code, [row["mismatches"] > 0 for row in rows_of(done)]) == (1, [False, True])


def test_where_no_program_may_run_the_others_do(good: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(command: list[Any], **_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(command[0]))

    real = process.run
    monkeypatch.setattr(
        process, "run", lambda command, **o: (refuse if Path(command[0]).stem == "test" else real)(command, **o)
    )
    done = quantal("verify", good.path, "--on", "c-host", "--on", "simulator", "--json")
    found = errors(done)
    assert (done.code, found["simulator"]) == (2, None)
    assert "(Permission denied); set TMPDIR" in str(found["c-host"])


def test_a_full_disk_takes_no_row_from_the_others(good: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        real(Path("/dev/full") if path.name == "asked.npz" else path, content)

    real = python.scratch
    monkeypatch.setattr(python, "scratch", full)
    done = quantal("verify", good.path, "--on", "simulator", "--on", "interpreter", "--json")
    assert done.code == 2
    assert errors(done) == {"simulator": "/dev/full: cannot be written (No space left on device)", "interpreter": None}


def test_what_was_measured_before_an_interruption_is_shown(good: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(EXECUTORS, "simulator", interrupted)
    done = quantal("verify", good.path, "--on", "interpreter", "--on", "simulator", "--json")
    assert (done.code, done.err.strip()) == (130, "quantal: interrupted")
    assert errors(done) == {"interpreter": None}


# ---- cost


@pytest.mark.parametrize("function", ["reset", "step"])
def test_a_header_that_hangs_has_no_cost_and_is_stopped(function: str, spoiled: Build) -> None:
    with_a_loop(spoiled, function)
    done = quantal("cost", spoiled.path, "--core", "cortex-m0")
    assert (done.code, done.out) == (1, "")
    assert "instructions at pc" in done.err
    assert done.err.startswith("quantal: cortex-m0: ")


def test_a_core_without_a_cost_takes_no_row_from_the_others(spoiled: Build) -> None:
    change(spoiled, spoiled.header, "#include <stdint.h>", "#include <stdint.h>\n#ifdef __riscv\n#error no\n#endif")
    done = quantal("cost", spoiled.path, "--json")
    assert (done.code, [row["core"] for row in json.loads(done.out)]) == (1, ["cortex-m0", "cortex-m4"])
    assert done.err.startswith("quantal: riscv32: ")

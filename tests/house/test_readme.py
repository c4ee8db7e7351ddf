"""The README's program compiles without a warning and classifies; the page stays short."""

import re
import subprocess
from pathlib import Path

import numpy as np

from quantal.export.base.toolchain import compile_host
from quantal.export.build import Build
from quantal.export.ir import interpret
from quantal.qat.reference import export_run
from quantal.qat.training.run import Run
from support.sources import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")


def test_the_example_program_compiles_and_prints_the_classes(tmp_path: Path) -> None:
    run = Run.open(ROOT / "golden" / "feed_forward" / "run")
    export_run(run, tmp_path / "build", "digits")
    program = re.search(r"```c\n(.*?)```", README, re.DOTALL)
    assert program is not None
    (tmp_path / "main.c").write_text(program[1])
    compile_host([tmp_path / "main.c"], tmp_path / "main", flags=[*STRICT, f"-I{tmp_path / 'build'}"])
    x, _ = Build.open(tmp_path / "build").vectors()
    images = "\n".join(" ".join(map(str, image)) for image in x[:, 0])
    done = subprocess.run([tmp_path / "main"], input=images, capture_output=True, text=True, check=True)
    trace = interpret.run(Build.open(tmp_path / "build").network, x)
    assert done.stdout.split() == [str(c) for c in interpret.classify(trace["output"])]
    assert len(np.unique(interpret.classify(trace["output"]))) > 1


def test_it_is_read_in_one_sitting() -> None:
    assert len(README.splitlines()) <= 170

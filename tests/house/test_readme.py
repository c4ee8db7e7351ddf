"""What the README shows is true: its program compiles and classifies, its TOML trains, its links lead somewhere."""

import re
import subprocess
from pathlib import Path

import numpy as np
from quantal.export.base.toolchain import compile_host
from quantal.export.build import Build
from quantal.export.ir import interpret
from quantal.qat.cli.commands import export_run
from quantal.qat.config import config_file
from quantal.qat.training.run import Run
from support.sources import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")


def block(language: str) -> str:
    """The README's first code block in that language."""
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_program_compiles_and_prints_the_classes(tmp_path: Path) -> None:
    run = Run.open(ROOT / "golden" / "feed_forward" / "run")
    export_run(run, tmp_path / "build", "digits")
    (tmp_path / "main.c").write_text(block("c"))
    compile_host([tmp_path / "main.c"], tmp_path / "main", flags=[*STRICT, f"-I{tmp_path / 'build'}"])
    x, _ = Build.open(tmp_path / "build").vectors()
    images = "\n".join(" ".join(map(str, image)) for image in x[:, 0])
    done = subprocess.run([tmp_path / "main"], input=images, capture_output=True, text=True, check=True)
    trace = interpret.run(Build.open(tmp_path / "build").network, x)
    assert done.stdout.split() == [str(c) for c in interpret.classify(trace["output"])]
    assert len(np.unique(interpret.classify(trace["output"]))) > 1


def test_the_example_network_is_one() -> None:
    assert config_file.loads(block("toml"), "README").layers[0].recurrent


def test_every_file_it_names_is_there() -> None:
    named = re.findall(r"`((?:qat|export|golden|templates|tests|benchmarks)/[\w/.]*)`", README)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_no_placeholder_is_left() -> None:
    assert "@@" not in README

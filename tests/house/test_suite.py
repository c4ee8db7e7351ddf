"""The suite itself: what continuous integration runs lets nothing be skipped."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.sources import ROOT, SUPPORTED


@pytest.mark.parametrize(("body", "plain", "run"), [("pytest.skip()", 0, 1), ("pass", 0, 0), ("assert 0", 1, 1)])
def test_ci_fails_where_a_test_is_skipped(
    body: str, plain: int, run: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "test_made.py").write_text(f"import pytest\ndef test_made(): {body}\n")
    make = tmp_path / "make"  # in place of the one that runs this suite
    options = f"-q -c /dev/null -p no:cacheprovider -p support.no_skips --rootdir {tmp_path}"
    make.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pytest {options} "{tmp_path}/test_made.py"\n')
    make.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "QUANTAL_NO_SKIPS")}
    environment |= {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", **SUPPORTED}
    assert request.config.pluginmanager.has_plugin("support.no_skips")
    for command, code in (([str(make)], plain), (["bash", str(ROOT / ".ci" / "run")], run)):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout

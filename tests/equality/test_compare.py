"""golden/compare.py tells what differs in meaning from what differs in text alone."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.golden import GOLDEN

CASE = "recurrent_subtract"


def compared(tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> tuple[int, str]:
    """What the script says of a case and of a copy whose network.json is changed."""
    for side in ("before", "after"):
        shutil.copytree(GOLDEN / CASE / "build", tmp_path / side / CASE)
    place = tmp_path / "after" / CASE / "network.json"
    document = json.loads(place.read_text(encoding="utf-8"))
    change(document)
    place.write_text(json.dumps(document), encoding="utf-8")
    return said(tmp_path)


def said(tmp_path: Path) -> tuple[int, str]:
    command = [sys.executable, str(GOLDEN / "compare.py"), str(tmp_path / "before"), str(tmp_path / "after")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def layer(document: dict[str, Any]) -> dict[str, Any]:
    first: dict[str, Any] = document["layers"][0]
    return first


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: layer(d)["weights"]["fan_in"]["rows"].reverse(), "weights differ"),
        (lambda d: layer(d)["ops"].pop(), "ops became"),
        (lambda d: layer(d)["ops"][-1].update(interval=[0, 7]), "the first that is another"),
        (lambda d: layer(d)["states"][0].update(init=1), "states: "),
        (lambda d: d["input"].update(hi=9), "input: "),
        (lambda d: d["layers"].pop(), "layers: "),
    ],
)
def test_what_means_something_else_is_said(change: Callable[[dict[str, Any]], Any], words: str, tmp_path: Path) -> None:
    code, out = compared(tmp_path, change)
    assert code == 1
    assert words in out


def test_names_and_text_alone_are_counted(tmp_path: Path) -> None:
    code, out = compared(tmp_path, lambda d: layer(d)["ops"][-1].update(label="another"))
    assert (code, out) == (0, "1 cases compared: 0 differences; the text differs of network.json of 1\n")


def test_another_vector_and_a_case_too_many_are_said(tmp_path: Path) -> None:
    compared(tmp_path, lambda d: None)
    place = tmp_path / "after" / CASE / "vectors.npz"
    with np.load(place) as file:
        arrays = {name: file[name] for name in file.files}
    arrays["output"] = arrays["output"] + 1
    np.savez(place, **arrays)
    (tmp_path / "before" / "other").mkdir()
    (tmp_path / "before" / "other" / "network.json").write_text("{}")
    code, out = said(tmp_path)
    assert code == 1
    assert "vectors: output: 100.00% of the values differ" in out
    assert "other: only in" in out

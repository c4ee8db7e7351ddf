"""A trained network with its run and its build, for whoever names it as an argument."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantal.export.proof import intervals
from support.commands import NETWORK, succeed


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.toml, its run and its build."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "net.toml").write_text(NETWORK)
    succeed("train", "--network", folder / "net.toml", "--out", folder / "run")
    succeed("export", folder / "run", "--out", folder / "build")
    return folder


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a copy of `trained`, free to spoil."""
    folder = tmp_path / "place"
    shutil.copytree(trained, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def quick_search() -> Iterator[None]:
    """Fewer rounds for states that never settle, as spike counts: they keep their format's range all the sooner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "_PATIENCE", 200)
        yield

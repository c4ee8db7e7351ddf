"""What is installed: the one name quantal, from wheel, sdist and editable; and a light install, without torch."""

import os
import re
import shutil
import site
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from quantal.export import __version__
from quantal.export.base.toolchain import CORES
from quantal.export.run import EXECUTORS
from support.sources import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
ROOMS = PROJECT["tool"]["setuptools"]["package-dir"].values()
BUILD = "import sys; from setuptools.build_meta import *; to = sys.argv[1]; build_sdist(to); build_wheel(to)"
GOLDEN = ROOT / "golden" / "feed_forward" / "build"

pytest.importorskip("setuptools", "77")


def done(*command: object, cwd: Path) -> str:
    """What a command prints, which must end well."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    run = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packaged, in which building leaves its traces."""
    folder = tmp_path_factory.mktemp("source")
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, folder)
    return folder


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(wheel, sdist)."""
    folder = tmp_path_factory.mktemp("built")
    done(sys.executable, "-c", BUILD, folder, cwd=source)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


class Environment:
    """A virtual environment in `folder` that has nothing but Python."""

    def __init__(self, folder: Path):
        venv.create(folder, symlinks=True)
        self.folder, self.python = folder, folder / "bin" / "python"
        self.site = Path(done(self.python, "-c", "import site; print(site.getsitepackages()[0])", cwd=folder).strip())

    def see_packages(self) -> None:
        """Sees the packages that are installed for the tests, after its own, but not what their .pth files name."""
        paths = {path for path in (*sys.path, *site.getsitepackages()) if path.endswith("site-packages")}
        (self.site / "zz_shared.pth").write_text(f"import sys; sys.path += {sorted(paths)!r}\n")

    def install(self, *what: object) -> None:
        """Installs it without its dependencies and without a network."""
        offline = ("install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
        done(sys.executable, "-m", "pip", "--python", self.python, *offline, *what, cwd=self.folder)

    def link(self, *packages: str) -> set[str]:
        """Puts these packages there, and what they need, as pip would; the names of all."""
        pending, found = set(packages), {}
        while pending:
            name = pending.pop().lower().replace("_", "-")
            if name not in found:
                found[name] = distribution(name)
                needed = map(Requirement, found[name].requires or ())
                pending |= {one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})}
        for package in found.values():
            tops = {file.parts[0] for file in package.files or () if file.parts[0] not in ("..", "__pycache__")}
            for top in tops:
                if not (self.site / top).exists():
                    (self.site / top).symlink_to(Path(str(package.locate_file(top))))
        return set(found)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "venv")


def test_wheel_and_sdist_hold_quantal_alone(built: tuple[Path, Path]) -> None:
    wheel, sdist = built
    names = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert names == {"quantal", f"quantal-{__version__}.dist-info"}
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2].partition("/")[0] for name in archive.getnames()} - {""}
        top = archive.extractfile(f"quantal-{__version__}/quantal.egg-info/top_level.txt")
        assert top is not None
        assert top.read() == b"quantal\n"
    traces = {"PKG-INFO", "setup.cfg", "quantal.egg-info"}
    assert names == {*ROOMS, "pyproject.toml", "README.md", "LICENSE", *traces}


@pytest.mark.parametrize("kind", ["wheel", "sdist", "editable"])
def test_it_is_imported_run_and_asked_for_its_version(
    kind: str, built: tuple[Path, Path], source: Path, environment: Environment, tmp_path: Path
) -> None:
    environment.see_packages()
    environment.install(*{"wheel": built[:1], "sdist": built[1:], "editable": ("-e", source)}[kind])
    where = "import quantal, quantal.export.ir.ops as o; print(quantal.__version__, quantal.__file__, o.__file__)"
    version, *files = done(environment.python, "-c", where, cwd=tmp_path).split()
    assert version == __version__
    assert all(Path(file).is_relative_to(source if kind == "editable" else environment.site) for file in files)
    for command in ((environment.folder / "bin" / "quantal",), (environment.python, "-m", "quantal")):
        assert done(*command, "--version", cwd=tmp_path) == f"quantal, version {__version__}\n"
    names = {path.name for path in environment.site.iterdir() if "quantal" in path.name}
    assert f"quantal-{__version__}.dist-info" in names
    assert {"export", "qat", "templates"} & {path.name for path in environment.site.iterdir()} == set()


def test_the_light_install_verifies_and_counts_the_cost_without_torch(
    built: tuple[Path, Path], environment: Environment, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "install.md").read_text("utf-8")
    named = re.search(r"^pip install --no-deps quantal\npip install (.*)$", page, re.MULTILINE)
    assert named is not None
    wanted = [Requirement(line).name for line in PROJECT["project"]["dependencies"]]
    wanted += [Requirement(line).name for line in PROJECT["project"]["optional-dependencies"]["verify"]]
    without = {"safetensors", "scikit-learn", "scipy", "tomli-w", "torch"}
    assert named[1].split() == sorted(set(wanted) - without)
    assert environment.link(*named[1].split()) & without == set()
    environment.install(built[0])
    command = environment.folder / "bin" / "quantal"
    lines = done(command, "verify", GOLDEN, cwd=tmp_path).splitlines()
    assert [line.split()[0] for line in lines] == ["executor", *EXECUTORS]
    lines = done(command, "cost", GOLDEN, cwd=tmp_path).splitlines()
    assert [line.split()[0] for line in lines] == ["core", *CORES]
    refused = subprocess.run([command, "train", "--out", "run"], cwd=tmp_path, capture_output=True, text=True)
    line = "quantal: this needs torch, which is not installed here: pip install quantal\n"
    assert (refused.returncode, refused.stdout, refused.stderr) == (2, "", line)

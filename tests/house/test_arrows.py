"""Who may import whom, as literal tables: a new arrow is a decision, written down here."""

import subprocess
import sys
import tomllib

import pytest

from quantal.export.build import Build
from quantal.export.cli.commands import COMMANDS, REFERENCE
from support.networks import input_for, write
from support.programs import random_program
from support.sources import PATHS, ROOT, imports

# Each room, and the rooms that it takes from. What knows nothing comes first: no room takes from one below it.
EXPORT = {
    "export.base": set(),
    "export.encoders": set(),
    "export.ir": {"export.base"},
    "export.proof": {"export.base", "export.ir"},
    "export.network_file": {"export.base", "export.ir", "export.proof"},
    "export.verify": {"export.base", "export.encoders", "export.ir"},
    "export.emit.c": {"export.base", "export.ir", "export.proof", "export.verify"},
    "export.emit.onnx": {"export.base", "export.ir", "export.proof"},
    "export.emit.python": {"export.base", "export.ir", "export.proof"},
    "export.build": {
        *("export.base", "export.emit.c", "export.emit.onnx", "export.emit.python", "export.ir"),
        *("export.network_file", "export.proof", "export.verify"),
    },
    "export.run": {"export.base", "export.build", "export.emit.c", "export.ir", "export.proof", "export.verify"},
    "export.report": {"export.base", "export.build", "export.emit.c", "export.run"},
    "export.cli": {"export.base", "export.build", "export.report", "export.run"},
}
QAT = {
    "qat.arithmetic": {"export.base"},
    "qat.quantizers": {"qat.arithmetic"},
    "qat.config": {"export.base", "export.ir", "qat.arithmetic"},
    "qat.data": {"export.base", "export.encoders", "qat.config"},
    "qat.engine": {"export.base", "export.ir", "qat.arithmetic"},
    "qat.network": {"export.base", "qat.arithmetic", "qat.config", "qat.data", "qat.engine", "qat.quantizers"},
    "qat.lower": {"export.base", "export.ir", "export.proof", "qat.arithmetic", "qat.config", "qat.network"},
    "qat.training": {
        *("export.base", "export.emit.c", "qat.arithmetic", "qat.config", "qat.data", "qat.engine", "qat.lower"),
        *("qat.network", "qat.quantizers"),
    },
    "qat.methods": {"export.base", "qat.config", "qat.data", "qat.network", "qat.training"},
    "qat.reference": {
        *("export.base", "export.build", "export.network_file", "export.run", "export.verify"),
        *("qat.data", "qat.lower", "qat.network", "qat.training"),
    },
    "qat.cli": {
        *("export.base", "export.build", "export.cli", "export.report", "export.run"),
        *("qat.config", "qat.data", "qat.methods", "qat.quantizers", "qat.reference", "qat.training"),
    },
}
ROOMS = EXPORT | QAT

# Who takes what from outside. Compilers, emulator and onnxruntime are taken when they are needed.
PACKAGES = {
    "click": {"export.cli", "qat.cli", "qat.training"},
    "fxpmath": {"export.base"},
    "h5py": {"qat.data"},
    "jinja2": {"export.base"},
    "msgspec": {"export.base", "export.network_file", "qat.config"},
    "numpy": {
        *("export.base", "export.build", "export.emit.c", "export.emit.onnx", "export.encoders", "export.ir"),
        *("export.network_file", "export.proof", "export.run", "export.verify"),
        *("qat.data", "qat.lower", "qat.network", "qat.reference", "qat.training"),
    },
    "onnx": {"export.emit.onnx"},
    "onnxruntime": {"export.run"},
    "rich": {"export.cli", "qat.methods", "qat.training"},
    "safetensors": {"qat.network", "qat.training"},
    "scipy": {"qat.data", "qat.training"},
    "sklearn": {"qat.data", "qat.quantizers", "qat.training"},
    "tomli_w": {"qat.config"},
    "torch": {
        *("qat.arithmetic", "qat.cli", "qat.engine", "qat.lower", "qat.methods", "qat.network", "qat.quantizers"),
        "qat.training",
    },
}

# Modules of rooms that torch may enter, which run without it all the same.
NO_TORCH = {
    *(f"qat.arithmetic.{name}" for name in ("grids", "neurons", "ops", "wiring")),
    *("qat.config", "qat.data", "qat.engine.adjoint"),
}
IMPORTS = {module: imports(path) for module, path in PATHS.items()}


def room(module: str) -> str | None:
    """The room in which a module stands; None for the two large ones, which hold a name or a version alone."""
    parts = module.split(".")
    return next((name for n in (3, 2) if (name := ".".join(parts[:n])) in ROOMS), None)


def all_of(module: str) -> set[str]:
    """What the module imports, and what that imports, and so on."""
    found, pending = set(), {module}
    while pending:
        name = pending.pop()
        found.add(name)
        pending |= IMPORTS.get(name, set()) - found
    return found


def test_every_module_stands_in_a_room() -> None:
    assert {module for module in PATHS if room(module) is None} == {"export", "export.emit", "qat"}


def test_rooms_take_what_the_tables_say_and_no_arrow_runs_back() -> None:
    taken: dict[str, set[str]] = {name: set() for name in ROOMS}
    for module, names in IMPORTS.items():
        if (name := room(module)) is not None:
            taken[name] |= {other for entry in names if (other := room(entry)) is not None and other != name}
    assert taken == ROOMS
    known: set[str] = set()
    for name, rooms in ROOMS.items():
        assert rooms <= known, name
        known.add(name)
    assert not any(entry.startswith("qat") for rooms in EXPORT.values() for entry in rooms)


def test_only_the_lazy_commands_of_the_entry_point_name_qat() -> None:
    names = {
        module for module, path in PATHS.items() if module.startswith("export") and "qat." in path.read_text("utf-8")
    }
    assert names == {"export.cli.commands"}
    for where in (*(where for where, _ in COMMANDS.values()), REFERENCE):
        assert room(where.partition(":")[0].removeprefix("quantal.")) in {"export.cli", "qat.cli", "qat.reference"}


def test_nothing_takes_from_the_face() -> None:
    face = {"quantal", "quantal._builds", "quantal._runs", "_builds", "_runs"}
    assert {module for module, names in IMPORTS.items() if names & face} == set()


def test_rooms_take_from_outside_what_the_table_says() -> None:
    arrows: dict[str, set[str]] = {}
    for module, names in IMPORTS.items():
        for package in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"export", "qat"}:
            arrows.setdefault(package, set()).add(str(room(module)))
    assert arrows == PACKAGES


def test_neurons_know_their_grids_alone_and_data_and_network_files_need_no_torch() -> None:
    for module, known in (("grids", set()), ("ops", set()), ("neurons", {"grids"}), ("wiring", {"neurons", "ops"})):
        names = IMPORTS[f"qat.arithmetic.{module}"]
        others = {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}
        assert others == {f"qat.arithmetic.{name}" for name in known}
    without = {module for module in PATHS if any(f"{module}.".startswith(f"{name}.") for name in NO_TORCH)}
    assert not any("torch" in {name.partition(".")[0] for name in all_of(module)} for module in without)
    assert "torch" in {name.partition(".")[0] for name in all_of("qat.network.layer")}


def test_the_installed_package_holds_every_room_and_nothing_else() -> None:
    said = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    folders = {path.parent for folder in said["package-dir"].values() for path in (ROOT / folder).rglob("*.py")}
    names = {str(folder.relative_to(ROOT)).replace("/", ".") for folder in folders}
    assert set(said["packages"]) == {name if name == "quantal" else f"quantal.{name}" for name in names}


# ---- what is not imported is not needed


WITHOUT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name == "torch" or name.startswith("quantal.qat"):
            raise ModuleNotFoundError(f"No module named {name!r}", name="torch")
sys.meta_path.insert(0, Refuse())
from quantal.export.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    program = random_program(1)
    return write(program, tmp_path_factory.mktemp("arrows") / "build", "model", input_for(program, 5, 3))


def without_torch_and_qat(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["verify", "--help"], ["cost", "--help"]])
def test_help_needs_neither_torch_nor_qat(arguments: list[str]) -> None:
    done = without_torch_and_qat(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "quantal" in done.stdout


def test_verify_and_cost_need_neither_torch_nor_qat(build: Build) -> None:
    pytest.importorskip("unicorn")
    pytest.importorskip("onnxruntime")
    for command in ("verify", "cost"):
        done = without_torch_and_qat(command, build.path)
        assert (done.returncode, done.stderr) == (0, ""), command
        assert "cortex-m0" in done.stdout


@pytest.mark.parametrize("arguments", [["train", "--out", "x"], ["demo"], ["export", "x", "--out", "y"]])
def test_what_needs_torch_says_so_in_one_line(arguments: list[str]) -> None:
    done = without_torch_and_qat(*arguments)
    line = "quantal: this needs torch, which is not installed here: pip install quantal\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)

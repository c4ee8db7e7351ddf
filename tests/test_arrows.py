"""Who may import whom, as literal tables: a new arrow is a decision, written down here."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from networks import input_for, random_program, write

from export.build import Build
from export.cli import COMMANDS, REFERENCE

ROOT = Path(__file__).resolve().parent.parent

# What of export each module of qat takes. Every other module of qat takes nothing.
QAT_TO_EXPORT = {
    "qat.allocation": {"export.errors", "export.packing"},
    "qat.config": {"export.encoders", "export.windows"},
    "qat.config_file": {"export.errors", "export.reading"},
    "qat.data": {"export.errors", "export.reading"},
    "qat.data_common": {"export.errors", "export.reading"},
    "qat.data_ecg": {"export.errors", "export.reading"},
    "qat.data_events": {"export.errors", "export.reading"},
    "qat.data_gestures": {"export.errors", "export.reading"},
    "qat.data_npz": {"export.reading"},
    "qat.data_series": {"export.errors"},
    "qat.data_spikes": {"export.errors", "export.reading"},
    "qat.encoding": {"export.encoders", "export.errors", "export.reading"},
    "qat.vlen_rows": {"export.reading"},
    "qat.network": {"export.errors", "export.names", "export.reading", "export.windows"},
    "qat.layers": {"export.errors", "export.names"},
    "qat.planes": {"export.windows"},
    "qat.config_graph": {"export.check", "export.errors", "export.names", "export.reading", "export.windows"},
    "qat.config_check": {"export.errors"},
    "qat.reservoir": {"export.errors"},
    "qat.ridge": {"export.errors"},
    "qat.warm_start": {"export.errors"},
    "qat.train": {"export.errors", "export.files", "export.reading"},
    "qat.lower": {
        *("export.builder", "export.errors", "export.fold", "export.intervals", "export.ir", "export.names"),
    },
    "qat.adjoint": {"export.builder", "export.errors", "export.ir"},
    "qat.lock": {"export.errors", "export.portable"},
    "qat.engine": {"export.errors", "export.executors.toolchain", "export.files", "export.portable", "export.render"},
    "qat.engine_cuda": {"export.executors.toolchain", "export.files", "export.render"},
    "qat.parallel": {"export.errors"},
    "qat.pruning": {"export.errors"},
    "qat.cli": {
        *("export.build", "export.cli", "export.errors", "export.executors", "export.executors.toolchain"),
        *("export.files", "export.names", "export.network_file", "export.portable", "export.vectors"),
    },
}

# export, from what knows nothing to what knows all: a module takes only what stands in a row above its own.
EXPORT_ORDER = [
    {"export", "export.encoders", "export.errors", "export.executors.child", "export.fixed", "export.portable"},
    {"export.executors.process", "export.files", "export.names", "export.reading", "export.windows"},
    {"export.ir"},
    {"export.builder"},
    {"export.fold"},
    {"export.bounds", "export.interpret", "export.intervals", "export.render"},
    {"export.check", "export.executors.toolchain", "export.packing", "export.probes"},
    {"export.network_file", "export.vectors", "export.executors.emulator"},
    {"export.emit_c_weights"},
    {"export.emit_c", "export.emit_onnx", "export.emit_python"},
    {"export.build"},
    {"export.executors.answers", "export.executors.runner"},
    {"export.executors.host", "export.executors.python"},
    {"export.executors.core"},
    {"export.executors", "export.cost"},
    {"export.verify"},
    {"export.cli"},
]

# Who takes what from outside. Compilers, emulator and onnxruntime are taken when they are needed.
EXPORT_PACKAGES = {
    "click": {"export.cli"},
    "rich": {"export.cli"},
    "jinja2": {"export.render"},
    "onnx": {"export.emit_onnx"},
    "onnxruntime": {"export.executors.child"},
    "fxpmath": {"export.fixed"},
    "numpy": {
        *("export.build", "export.emit_c", "export.emit_c_weights", "export.emit_onnx", "export.encoders"),
        *("export.check", "export.fixed", "export.interpret", "export.intervals", "export.packing", "export.windows"),
        *("export.fold", "export.ir", "export.network_file", "export.reading", "export.vectors", "export.verify"),
        *("export.executors.answers", "export.executors.child", "export.executors.core", "export.executors.host"),
        *("export.executors.python", "export.probes"),
    },
}

NO_TORCH = {
    *("qat", "qat.grids", "qat.neurons", "qat.adjoint", "qat.encoding"),
    *("qat.data", "qat.data_common", "qat.data_ecg", "qat.data_events", "qat.data_gestures", "qat.data_npz"),
    *("qat.data_series", "qat.data_spikes", "qat.data_times", "qat.mat_file", "qat.vlen_rows"),
}


def imports(path: Path) -> set[str]:
    """The modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            module = str(node.module)
            inside = {f"{module}.{alias.name}" for alias in node.names} & set(PATHS)
            found |= inside or {module}
    return found


PATHS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("export", "qat")
    for path in (ROOT / folder).rglob("*.py")
}
IMPORTS = {module: imports(path) for module, path in PATHS.items()}


def of(module: str, *packages: str) -> set[str]:
    """What the module imports of those packages."""
    return {name for name in IMPORTS[module] if name.partition(".")[0] in packages}


def all_of(module: str) -> set[str]:
    """What the module imports, and what that imports, and so on."""
    found, pending = set(), {module}
    while pending:
        name = pending.pop()
        found.add(name)
        pending |= IMPORTS.get(name, set()) - found
    return found


def test_export_knows_neither_torch_nor_qat() -> None:
    outside = {"torch", "qat", "safetensors", "sklearn", "scipy"}
    assert {
        module: of(module, *outside) for module in IMPORTS if module.startswith("export") and of(module, *outside)
    } == {}


def test_only_the_lazy_commands_of_the_entry_point_name_qat() -> None:
    names = {
        module for module, path in PATHS.items() if module.startswith("export") and "qat." in path.read_text("utf-8")
    }
    assert names == {"export.cli"}
    for where in (*(where for where, _ in COMMANDS.values()), REFERENCE):
        assert where.partition(":")[0] in {"export.cli", "qat.cli"}


def test_qat_reaches_export_as_the_table_says() -> None:
    arrows = {module: of(module, "export") for module in IMPORTS if module.partition(".")[0] == "qat"}
    assert {module: names for module, names in arrows.items() if names} == QAT_TO_EXPORT


def test_every_module_of_export_takes_only_what_stands_above_it() -> None:
    assert set().union(*EXPORT_ORDER) == {module for module in IMPORTS if module.partition(".")[0] == "export"}
    above: set[str] = set()
    for row in EXPORT_ORDER:
        assert {module: of(module, "export") - above for module in row if of(module, "export") - above} == {}
        above |= row


def test_export_takes_from_outside_what_the_table_says() -> None:
    arrows: dict[str, set[str]] = {}
    for module, names in IMPORTS.items():
        for package in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"export"}:
            if module.startswith("export"):
                arrows.setdefault(package, set()).add(module)
    assert arrows == EXPORT_PACKAGES


def test_neurons_know_their_grids_alone_and_data_needs_no_torch() -> None:
    for module, known in (("qat.grids", set()), ("qat.neurons", {"qat.grids"})):
        assert {name for name in IMPORTS[module] if name.partition(".")[0] not in sys.stdlib_module_names} == known
    assert {module for module in NO_TORCH if "torch" in {name.partition(".")[0] for name in all_of(module)}} == set()
    assert "torch" in {name.partition(".")[0] for name in all_of("qat.layers")}


# ---- what is not imported is not needed


WITHOUT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "qat"):
            raise ModuleNotFoundError(f"No module named {name!r}", name="torch")
sys.meta_path.insert(0, Refuse())
from export.cli import main
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
    line = "quantal: this command needs torch, which is not installed here\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)

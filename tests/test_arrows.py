"""Who may import whom, as literal tables: a new arrow is a decision, written down here."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from networks import input_for, random_program, write
from quantal.export.build import Build
from quantal.export.cli.main import COMMANDS, REFERENCE

ROOT = Path(__file__).resolve().parent.parent

# What of export each module of qat takes. Every other module of qat takes nothing.
QAT_TO_EXPORT = {
    "quantal.qat.training.bit_widths": {"quantal.export.base.errors", "quantal.export.emit.c.packing"},
    "quantal.qat.config.schema": {"quantal.export.encoders", "quantal.export.base.windows"},
    "quantal.qat.config.config_file": {"quantal.export.base.errors", "quantal.export.base.reading"},
    "quantal.qat.data.registry": {"quantal.export.base.errors", "quantal.export.base.reading"},
    "quantal.qat.data.common": {"quantal.export.base.errors", "quantal.export.base.reading"},
    "quantal.qat.data.ecg": {"quantal.export.base.errors", "quantal.export.base.reading"},
    "quantal.qat.data.events": {"quantal.export.base.errors", "quantal.export.base.reading"},
    "quantal.qat.data.gestures": {"quantal.export.base.errors", "quantal.export.base.reading"},
    "quantal.qat.data.npz": {"quantal.export.base.reading"},
    "quantal.qat.data.series": {"quantal.export.base.errors"},
    "quantal.qat.data.spikes": {"quantal.export.base.errors", "quantal.export.base.reading"},
    "quantal.qat.data.encoding": {
        "quantal.export.encoders",
        "quantal.export.base.errors",
        "quantal.export.base.reading",
    },
    "quantal.qat.data.vlen_rows": {"quantal.export.base.reading"},
    "quantal.qat.network.network": {
        "quantal.export.base.errors",
        "quantal.export.base.names",
        "quantal.export.base.reading",
        "quantal.export.base.windows",
    },
    "quantal.qat.network.layer": {"quantal.export.base.errors", "quantal.export.base.names"},
    "quantal.qat.arithmetic.planes": {"quantal.export.base.windows"},
    "quantal.qat.config.graph": {
        "quantal.export.ir.check",
        "quantal.export.base.errors",
        "quantal.export.base.names",
        "quantal.export.base.reading",
        "quantal.export.base.windows",
    },
    "quantal.qat.config.rules": {"quantal.export.base.errors"},
    "quantal.qat.network.reservoir": {"quantal.export.base.errors"},
    "quantal.qat.training.ridge": {"quantal.export.base.errors"},
    "quantal.qat.training.warm_start": {"quantal.export.base.errors"},
    "quantal.qat.training.train": {
        "quantal.export.base.errors",
        "quantal.export.base.files",
        "quantal.export.base.reading",
    },
    "quantal.qat.lower": {
        *(
            "quantal.export.ir.builder",
            "quantal.export.base.errors",
            "quantal.export.ir.fold",
            "quantal.export.proof.intervals",
            "quantal.export.ir.network",
            "quantal.export.base.names",
        ),
    },
    "quantal.qat.engine.adjoint": {
        "quantal.export.ir.builder",
        "quantal.export.base.errors",
        "quantal.export.ir.network",
    },
    "quantal.qat.training.lock": {"quantal.export.base.errors", "quantal.export.base.portable"},
    "quantal.qat.engine.cpu": {
        "quantal.export.base.errors",
        "quantal.export.base.toolchain",
        "quantal.export.base.files",
        "quantal.export.base.portable",
        "quantal.export.base.render",
    },
    "quantal.qat.engine.cuda": {
        "quantal.export.base.toolchain",
        "quantal.export.base.files",
        "quantal.export.base.render",
    },
    "quantal.qat.training.parallel": {"quantal.export.base.errors"},
    "quantal.qat.methods.pruning": {"quantal.export.base.errors"},
    "quantal.qat.cli.commands": {
        *(
            "quantal.export.build",
            "quantal.export.cli.main",
            "quantal.export.base.errors",
            "quantal.export.run",
            "quantal.export.base.toolchain",
        ),
        *(
            "quantal.export.base.files",
            "quantal.export.base.names",
            "quantal.export.ir.network_file",
            "quantal.export.base.portable",
            "quantal.export.verify.vectors",
        ),
    },
}

# export, from what knows nothing to what knows all: a module takes only what stands in a row above its own.
EXPORT_ORDER = [
    {
        "export",
        "quantal.export.encoders",
        "quantal.export.base.errors",
        "quantal.export.run.child",
        "quantal.export.base.fixed",
        "quantal.export.base.portable",
    },
    {
        "quantal.export.base.process",
        "quantal.export.base.files",
        "quantal.export.base.names",
        "quantal.export.base.reading",
        "quantal.export.base.windows",
    },
    {"quantal.export.ir.network"},
    {"quantal.export.ir.builder"},
    {"quantal.export.ir.fold"},
    {
        "quantal.export.run.bounds",
        "quantal.export.ir.interpret",
        "quantal.export.proof.intervals",
        "quantal.export.base.render",
    },
    {
        "quantal.export.ir.check",
        "quantal.export.base.toolchain",
        "quantal.export.emit.c.packing",
        "quantal.export.verify.probes",
    },
    {"quantal.export.ir.network_file", "quantal.export.verify.vectors", "quantal.export.run.emulator"},
    {"quantal.export.emit.c.weights"},
    {"quantal.export.emit.c.header", "quantal.export.emit.onnx.model", "quantal.export.emit.python.simulator"},
    {"quantal.export.build"},
    {"quantal.export.run.answers", "quantal.export.run.runner"},
    {"quantal.export.run.host", "quantal.export.run.python"},
    {"quantal.export.run.core"},
    {"quantal.export.run", "quantal.export.report.cost"},
    {"quantal.export.run.verify"},
    {"quantal.export.cli.main"},
]

# Who takes what from outside. Compilers, emulator and onnxruntime are taken when they are needed.
EXPORT_PACKAGES = {
    "click": {"quantal.export.cli.main"},
    "rich": {"quantal.export.cli.main"},
    "jinja2": {"quantal.export.base.render"},
    "onnx": {"quantal.export.emit.onnx.model"},
    "onnxruntime": {"quantal.export.run.child"},
    "fxpmath": {"quantal.export.base.fixed"},
    "numpy": {
        *(
            "quantal.export.build",
            "quantal.export.emit.c.header",
            "quantal.export.emit.c.weights",
            "quantal.export.emit.onnx.model",
            "quantal.export.encoders",
        ),
        *(
            "quantal.export.ir.check",
            "quantal.export.base.fixed",
            "quantal.export.ir.interpret",
            "quantal.export.proof.intervals",
            "quantal.export.emit.c.packing",
            "quantal.export.base.windows",
        ),
        *(
            "quantal.export.ir.fold",
            "quantal.export.ir.network",
            "quantal.export.ir.network_file",
            "quantal.export.base.reading",
            "quantal.export.verify.vectors",
            "quantal.export.run.verify",
        ),
        *(
            "quantal.export.run.answers",
            "quantal.export.run.child",
            "quantal.export.run.core",
            "quantal.export.run.host",
        ),
        *("quantal.export.run.python", "quantal.export.verify.probes"),
    },
}

NO_TORCH = {
    *(
        "qat",
        "quantal.qat.arithmetic.grids",
        "quantal.qat.arithmetic.neurons",
        "quantal.qat.engine.adjoint",
        "quantal.qat.data.encoding",
    ),
    *(
        "quantal.qat.data.registry",
        "quantal.qat.data.common",
        "quantal.qat.data.ecg",
        "quantal.qat.data.events",
        "quantal.qat.data.gestures",
        "quantal.qat.data.npz",
    ),
    *(
        "quantal.qat.data.series",
        "quantal.qat.data.spikes",
        "quantal.qat.data.times",
        "quantal.qat.data.mat_file",
        "quantal.qat.data.vlen_rows",
    ),
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
    assert names == {"quantal.export.cli.main"}
    for where in (*(where for where, _ in COMMANDS.values()), REFERENCE):
        assert where.partition(":")[0] in {"quantal.export.cli.main", "quantal.qat.cli.commands"}


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
    for module, known in (
        ("quantal.qat.arithmetic.grids", set()),
        ("quantal.qat.arithmetic.neurons", {"quantal.qat.arithmetic.grids"}),
    ):
        assert {name for name in IMPORTS[module] if name.partition(".")[0] not in sys.stdlib_module_names} == known
    assert {module for module in NO_TORCH if "torch" in {name.partition(".")[0] for name in all_of(module)}} == set()
    assert "torch" in {name.partition(".")[0] for name in all_of("quantal.qat.network.layer")}


# ---- what is not imported is not needed


WITHOUT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "qat"):
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
    line = "quantal: this command needs torch, which is not installed here\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)

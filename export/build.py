"""A BUILD folder: everything made from one integer network and its golden vectors, and the manifest of it all.

NAME.h and NAME_test.c, NAME_sim.py, NAME.onnx, network.json, vectors.npz, MANIFEST.json. No dates and no paths: two
builds of one network with one set of vectors are byte-identical.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantal.export import __version__, network_file
from quantal.export.base import reading
from quantal.export.base.errors import BadInput, shown
from quantal.export.base.files import check_whole, scratch, write_folder
from quantal.export.base.fixed import Ints
from quantal.export.emit.c.header import emit_header
from quantal.export.emit.c.program import emit_test
from quantal.export.emit.onnx.model import emit_onnx
from quantal.export.emit.python.simulator import emit_simulator
from quantal.export.ir.interpret import Trace
from quantal.export.ir.network import Network
from quantal.export.proof.intervals import Proven
from quantal.export.verify import probes, vectors

NETWORK_FILE, VECTORS_FILE, MANIFEST_FILE = "network.json", "vectors.npz", "MANIFEST.json"
EMITTED = (".h", "_test.c", "_sim.py", ".onnx")
_MOST_SOURCE = 4 * reading.LARGE_TEXT  # bytes of C, which come of a network with far fewer
_FILE_NAME = re.compile(r"[\w.-]{1,100}", re.ASCII)


@dataclass(frozen=True)
class Build:
    """An opened BUILD: its folder, its network, and what in it is not as the manifest says."""

    path: Path
    proven: Proven
    generator: str
    complaints: tuple[str, ...]

    @classmethod
    def open(cls, path: Path) -> "Build":
        """The build in the folder `path`. Files that changed since the export become complaints, a line each."""
        if not path.is_dir():
            raise BadInput(f"{path}: no such build folder")
        proven = network_file.load(path / NETWORK_FILE, trust_digest=True)
        check_whole(path, MANIFEST_FILE)
        listed, generator = _read_manifest(path / MANIFEST_FILE)
        for name in (NETWORK_FILE, VECTORS_FILE, *(f"{proven.network.name}{ending}" for ending in EMITTED)):
            if name not in listed:
                raise BadInput(f"{path / MANIFEST_FILE}: files: {name}: missing")
        complaints = []
        for name, expected in listed.items():
            if not (path / name).exists():
                raise BadInput(f"{path / name}: missing, though {MANIFEST_FILE} lists it")
            if reading.sha256(path / name) != expected:
                changed = f"changed since the export ({MANIFEST_FILE} has another sha256)"
                complaints.append(f"{path / name}: {reading.added(path / name, expected) or changed}")
        return cls(path, proven, generator, tuple(complaints))

    @property
    def network(self) -> Network:
        """The integer network."""
        return self.proven.network

    @property
    def macros(self) -> dict[str, int | str]:
        """What each macro of the header must stand for."""
        return probes.macros(self.network, network_file.digest(self.proven), self.generator)

    @property
    def header(self) -> Path:
        """NAME.h."""
        return self.path / f"{self.network.name}.h"

    @property
    def test_program(self) -> Path:
        """NAME_test.c."""
        return self.path / f"{self.network.name}_test.c"

    @property
    def simulator(self) -> Path:
        """NAME_sim.py."""
        return self.path / f"{self.network.name}_sim.py"

    @property
    def onnx(self) -> Path:
        """NAME.onnx."""
        return self.path / f"{self.network.name}.onnx"

    def copy_sources(self, folder: Path) -> Path:
        """The test program, copied into `folder` with the header beside it: compilers do not take every path."""
        for path in (self.header, self.test_program):
            scratch(folder / path.name, reading.content(path, _MOST_SOURCE))
        return folder / self.test_program.name

    def vectors(self) -> tuple[Ints, Trace]:
        """The golden vectors: input and trace."""
        return vectors.load(self.path / VECTORS_FILE, self.network)


def write_build(path: Path, proven: Proven, x: Ints, trace: dict[str, np.ndarray]) -> None:
    """Writes the folder `path` from the network and the golden vectors (x, trace): whole, or not at all."""
    network, digest = proven.network, network_file.digest(proven)
    vectors.check_input(network, x, "golden vectors")
    made: dict[str, bytes | str] = {
        NETWORK_FILE: network_file.dumps(proven),
        f"{network.name}.h": emit_header(proven, digest, x, trace),
        f"{network.name}_test.c": emit_test(proven, digest),
        f"{network.name}_sim.py": emit_simulator(proven, digest),
        f"{network.name}.onnx": emit_onnx(proven, digest),
        VECTORS_FILE: vectors.dumps(x, trace),
    }
    content = {name: text.encode("utf-8") if isinstance(text, str) else text for name, text in made.items()}
    manifest = {
        "generator": f"quantal {__version__}",
        "network": digest,
        "files": {name: _sha256(content[name]) for name in sorted(content)},
    }
    content[MANIFEST_FILE] = (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode("utf-8")
    write_folder(path, content, last=MANIFEST_FILE)


def _sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _read_manifest(path: Path) -> tuple[dict[str, str], str]:
    """(the digest of each file, what wrote them)."""
    try:
        document = json.loads(reading.text(path, reading.SMALL_TEXT))
        entries = {str(name): str(value) for name, value in document["files"].items()}
        generator = str(document["generator"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(f"{path}: files: expected a manifest with names and digests ({type(error).__name__})") from None
    for name in entries:
        if not _FILE_NAME.fullmatch(name) or name in (".", ".."):
            raise BadInput(f"{path}: files: expected plain file names, got {shown(name)}")
    return entries, generator

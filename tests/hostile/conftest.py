"""A build, and every reader of files with an input that it takes."""

from collections.abc import Iterator

import hostile
import pytest

from quantal.export.build import Build
from support.networks import input_for, write
from support.programs import random_program

# ---- marks and line ends


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    program = random_program(1)
    return write(program, tmp_path_factory.mktemp("reading") / "build", "model", input_for(program, 5, 3))


# ---- hostile files


@pytest.fixture(scope="session")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, hostile.Reader]:
    pytest.importorskip("h5py")
    return {reader.name: reader for reader in hostile.readers(tmp_path_factory.mktemp("readers"))}


@pytest.fixture(autouse=True)
def restored(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "readers" in request.fixturenames:
        for reader in request.getfixturevalue("readers").values():
            reader.file.write_bytes(reader.seeds[0])

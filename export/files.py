"""Writing so that nothing half-written stays behind: to a temporary first, renamed when whole."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.errors import BadInput


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends well, and vanishes when it does not."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends well. Raises BadInput where `path` is not free."""
    check_free(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror})") from None
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.is_dir():
            path.rmdir()
        temporary.rename(path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_free(path: Path) -> None:
    """Raises BadInput unless `path` does not exist, or is an empty folder."""
    try:
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise BadInput(f"{path}: already exists; choose another output folder or remove it")
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None

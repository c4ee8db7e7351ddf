"""All that quantal writes, it writes here: a file is whole or as it was, and an error is a line that names it.

A file is written beside its place, flushed to the disk and put in place in one step. A folder is written inside the
folder that was given, which may be a mount point or a link; its last file, the marker, says that the others are there.
Text is UTF-8 with the line ends that it has, on every system. Modes and groups are those that the umask and the folder
give, or those of the file that was there.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from quantal.export.base.errors import BadInput

PARTIAL = ".part"  # how the names of files end that are being written
ALWAYS_THERE = {"lost+found"}  # in the root of a file system that is empty


def write(path: Path, content: bytes | str) -> None:
    """Writes the file `path`: whole, or not at all. Raises BadInput with the reason."""
    _flush_folder(_place(path, content).parent)


@contextmanager
def appended(path: Path, content: bytes | str) -> Iterator[None]:
    """The file `path` with `content` at its end; without it again where this, or what the block writes, fails.

    Raises BadInput with the reason.
    """
    with _named(path):
        _check_regular(path)
        file = path.open("ab", buffering=0)
    with file:
        size = os.fstat(file.fileno()).st_size
        try:
            with _named(path):
                _put(file, content)
            yield
        except BadInput:
            with suppress(OSError):
                file.truncate(size)
            raise


def scratch(path: Path, content: bytes | str) -> None:
    """Writes a file that is thrown away soon: it need not outlive a power cut. Raises BadInput with the reason."""
    with _named(path), path.open("wb") as file:
        file.write(_encoded(content))


def write_folder(path: Path, files: Mapping[str, bytes | str], *, last: str) -> None:
    """Writes the folder `path` of these files, by their relative paths; `last` is the marker.

    Raises BadInput unless the folder is free (see check_free), and where it cannot be written. Then nothing is left of
    what was written.
    """
    check_free(path)
    claim = _temporary(path / last)  # who makes it writes the folder; it becomes the marker
    folders: list[Path] = []
    begun: list[Path] = []
    try:
        with _named(path):
            _make(path, folders)
            try:
                claim.open("xb").close()
            except FileExistsError:
                raise _claimed(path) from None
            begun.append(claim)
            if _occupied(path) != {claim.name}:  # another process was faster
                raise BadInput(f"{path}: already exists; choose another output folder or remove it")
        for name in (*(name for name in files if name != last), last):
            file = path / name
            if name == last:  # what it says is true by then
                for folder in {path, *folders, *(made.parent for made in folders)}:
                    _flush_folder(folder)
            with _named(file):
                _make(file.parent, folders)
            begun.append(file)
            _place(file, files[name])
        _flush_folder(path)
    except BaseException:
        for remove in (*(file.unlink for file in begun), *(folder.rmdir for folder in reversed(folders))):
            with suppress(OSError):
                remove()
        raise


def check_free(path: Path) -> None:
    """Raises BadInput unless `path` does not exist, or is an empty folder or a link to one."""
    try:
        there = os.path.lexists(path)
        names = _occupied(path) if path.is_dir() else set()
        if there and (names or not path.is_dir()):
            if any(name.startswith(".") and name.endswith(PARTIAL) for name in names):
                raise _claimed(path)
            raise BadInput(f"{path}: already exists; choose another output folder or remove it")
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({_reason(error)})") from None


def check_whole(path: Path, marker: str) -> None:
    """Raises BadInput where the folder `path` lacks its marker, the file that is written last."""
    if not (path / marker).exists():
        raise BadInput(f"{path / marker}: missing: it is written last, so {path} is not whole; make it again")


def _place(path: Path, content: bytes | str) -> Path:
    """Puts a whole file in its place; where that is, if `path` is a link."""
    with _named(path):
        target = path.resolve() if path.is_symlink() else path  # the link stays
        _check_regular(target)
        temporary = _temporary(target)
        try:
            temporary.unlink(missing_ok=True)  # of a process that was killed
            with temporary.open("xb", buffering=0) as file:
                _put(file, content)
                _take_over(target, temporary)
            temporary.replace(target)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
    return target


def _check_regular(path: Path) -> None:
    """Raises BadInput where a pipe, which would wait for its other end, or a device stands in the file's place."""
    if path.exists() and not (path.is_file() or path.is_dir()):  # of a folder the system itself says so
        raise BadInput(f"{path}: cannot be written (not a regular file)")


def _occupied(path: Path) -> set[str]:
    return set(os.listdir(path)) - ALWAYS_THERE


def _claimed(path: Path) -> BadInput:
    return BadInput(f"{path}: not whole: another process writes it, or was ended while it did; then remove it")


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}{PARTIAL}")


def _make(path: Path, made: list[Path]) -> None:
    """Makes the folder and those above it; those that were not there are added to `made`."""
    if path.is_dir():
        return
    _make(path.parent, made)
    try:
        path.mkdir()
        made.append(path)
    except FileExistsError:  # another process made it just now
        if not path.is_dir():
            raise


def _put(file: FileIO, content: bytes | str) -> None:
    """All of the content, on the disk: not only in the memory of the system."""
    left = memoryview(_encoded(content))
    while left:
        left = left[file.write(left) :]
    os.fsync(file.fileno())


def _encoded(content: bytes | str) -> bytes:
    return content.encode("utf-8") if isinstance(content, str) else content


def _take_over(before: Path, file: Path) -> None:
    """Gives `file` the owner, the group and the mode of the file that it replaces, as far as it may."""
    try:
        status = before.stat()
    except FileNotFoundError:
        return
    with suppress(PermissionError):
        if hasattr(os, "chown"):
            os.chown(file, status.st_uid, status.st_gid)
    with suppress(PermissionError):
        file.chmod(stat.S_IMODE(status.st_mode))


def _flush_folder(path: Path) -> None:
    """Puts the names of its files on the disk where the system does that; without it they are whole, too."""
    with suppress(OSError):  # on Windows, in folders that may not be read, and on some file systems
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns an error of the system into the line that names the file and says why."""
    try:
        yield
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({_reason(error)})") from None


def _reason(error: OSError) -> str:
    return error.strerror or str(error)

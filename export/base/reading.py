"""Reading files that may be malformed, or made to harm: what they say of themselves is checked before it is believed.

A file is read up to a bound, an array only when its header fits the bytes that are there, its reader's expectations and
the memory that may be taken. Nothing in a file is executed. Whatever is wrong raises BadInput with the file's name.
"""

import hashlib
import os
import stat
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy_format

from quantal.export.base.errors import BadInput, named, shown

MEMORY = "QUANTAL_MEMORY"
"""The environment variable with the memory, in GiB, that what a file asks for may take; 8 unless it is set."""
SMALL_TEXT, LARGE_TEXT = 1 << 20, 1 << 26
"""Bytes that a configuration or a manifest has at most, and those of a network or a generated source."""
DEFLATE = 1032
"""How many bytes one compressed byte can stand for at most."""

_KINDS = "biufcmMUS"  # of plain numbers and names, which hold no objects
_MOST_ARRAYS, _MOST_HEADER, _CHUNK = 4096, 2048, 1 << 20
_MARK = b"\xef\xbb\xbf"


# ---- memory


def memory_limit() -> int:
    """The bytes that what a file or a configuration asks for may take. Raises BadInput where MEMORY is no number."""
    given = os.environ.get(MEMORY, "8")
    try:
        limit = float(given)
    except ValueError:
        limit = 0.0
    if not 0 < limit < 2**20:
        raise BadInput(f"{MEMORY}: expected a number of GiB above 0, got {shown(given)}")
    return int(limit * 2**30)


def check_memory(needed: int, where: object, what: str) -> None:
    """Raises BadInput where `needed` bytes are more than the limit; `where: what` says what would take them."""
    limit = memory_limit()
    if needed > limit:
        raise BadInput(
            f"{where}: {what} would take {_gib(needed)} GiB of memory, more than the {_gib(limit)} allowed; "
            f"{MEMORY} sets how many GiB are"
        )


def _gib(count: int) -> str:
    return f"{count / 2**30:.4g}"


# ---- bytes and text


@contextmanager
def damaged(path: Path, expected: str, field: str = "file") -> Iterator[None]:
    """Turns whatever a library raises over a malformed file into BadInput: `expected` says what `field` should be."""
    try:
        yield
    except (BadInput, MemoryError):
        raise
    except Exception as error:  # zipfile, zlib, numpy, scipy and HDF5 each have their own, and let others' through
        first = (str(error).strip().splitlines() or [""])[0]
        raise BadInput(f"{path}: {field}: expected {expected} ({type(error).__name__}: {first[:120]})") from None


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """The file, open for reading. Raises BadInput unless it is a readable file, or a pipe of the shell's: no device."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise BadInput(f"{path}: cannot be read (Is a directory)")
        if not stat.S_ISREG(mode) and not (stat.S_ISFIFO(mode) and _of_the_shell(path)):
            raise BadInput(f"{path}: cannot be read (not a regular file)")
        file = path.open("rb")
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError:  # a NUL, or half a letter
        raise BadInput(f"{shown(str(path))}: cannot be read (not a name for a file)") from None
    with file:
        try:
            yield file
        except OSError as error:
            raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from None


def _of_the_shell(path: Path) -> bool:
    """Whether it is open already: any other pipe may wait for its other end for ever."""
    return path.is_relative_to("/dev/fd") or path == Path("/dev/stdin")


_PIECE = 1 << 20


def content(path: Path, most: int) -> bytes:
    """The bytes of a file that has `most` of them at most."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        raw = file.read(min(size, most) + 1)
        while len(raw) <= most and (more := file.read(_PIECE)):  # of a pipe, whose size is not known
            raw += more
    if len(raw) > most:
        raise BadInput(f"{path}: file: expected at most {most:,} bytes, got {max(size, most + 1):,}")
    return raw


def text(path: Path, most: int, errors: str = "strict") -> str:
    """The text of a UTF-8 file, without a byte order mark and with lines that end in \\n, however they ended."""
    return decoded(content(path, most), path, errors)


def decoded(raw: bytes, path: Path, errors: str = "strict") -> str:
    """The text of those bytes of a file; see `text`."""
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise BadInput(f"{path}: cannot be read (its byte order mark is UTF-16's; save it as UTF-8)")
    try:
        return plain(raw.decode("utf-8", errors))
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: cannot be read ({error})") from None


def plain(text: str) -> str:
    """The text without a byte order mark and with lines that end in \\n."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def sha256(path: Path) -> str:
    """The digest of a file's bytes, however many there are."""
    with opened(path) as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def added(path: Path, digest: str) -> str | None:
    """What an editor or git added to the file with that digest to make this one, if nothing else differs."""
    if path.stat().st_size > LARGE_TEXT:
        return None
    raw = content(path, LARGE_TEXT)
    bare = raw.removeprefix(_MARK)
    for other, said in ((bare, "only a byte order mark was added"), (_ends(bare), "only line endings differ (CRLF)")):
        if digest == "sha256:" + hashlib.sha256(other).hexdigest():
            return said
    return None


def _ends(raw: bytes) -> bytes:
    return raw.replace(b"\r\n", b"\n")


# ---- arrays


@dataclass(frozen=True)
class Stored:
    """An array in a .npy file or in an .npz archive, as its header announces it; `read` takes it."""

    path: Path
    member: str | None
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    start: int

    @property
    def ndim(self) -> int:
        """How many dimensions it has."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many values it has."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def nbytes(self) -> int:
        """How many bytes its values take."""
        return self.size * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """Its values, in this machine's byte order."""
        check_memory(self.nbytes, self.path, "an array" if self.member is None else self.member.removesuffix(".npy"))
        values = np.empty(self.size, self.dtype)
        with damaged(self.path, "whole and intact arrays"), _source(self.path, self.member) as file:
            file.read(self.start)
            left = values.view(np.uint8).data
            while part := file.read(min(len(left), _CHUNK) or 1):  # once more, which checks the sum of an archive
                left[: len(part)], left = part, left[len(part) :]
            if left:
                raise EOFError(f"{len(left)} bytes are missing")
        values = values.astype(self.dtype.newbyteorder("="), copy=False)
        return values.reshape(self.shape[::-1]).T if self.fortran else values.reshape(self.shape)


@contextmanager
def _source(path: Path, member: str | None) -> Iterator[IO[bytes]]:
    with opened(path) as file:
        if member is None:
            yield file
        else:
            with zipfile.ZipFile(file) as archive, archive.open(member) as inside:
                yield inside


def npz(path: Path) -> dict[str, Stored]:
    """The arrays of an .npz archive by name, none of them read yet."""
    found: dict[str, Stored] = {}
    with damaged(path, "an intact .npz of plain arrays"), opened(path) as file, zipfile.ZipFile(file) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        if len(members) > _MOST_ARRAYS:
            raise ValueError(f"{len(members)} arrays are too many")
        for member in members:
            name = member.filename.removesuffix(".npy")
            with damaged(path, "a whole and intact array of plain numbers", named(name)):
                found[name] = _inside(path, archive, member, found.get(name))
    return found


def _inside(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, other: Stored | None) -> Stored:
    if other is not None:
        raise ValueError("it is there twice")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("neither stored nor deflated")
    if member.file_size > DEFLATE * member.compress_size:
        raise ValueError(f"{member.compress_size} bytes cannot hold the {member.file_size} they are said to")
    with archive.open(member) as file:
        return _announced(path, member.filename, file, member.file_size)


def npy(path: Path) -> Stored:
    """The array of a .npy file, not read yet."""
    with damaged(path, "an intact .npy of plain numbers"), opened(path) as file:
        return _announced(path, None, file, os.fstat(file.fileno()).st_size)


def _announced(path: Path, member: str | None, file: IO[bytes], count: int) -> Stored:
    """What a header says of the array behind it. Raises ValueError unless it is plain, and is `count` bytes with it."""
    head = file.read(12)
    version = npy_format.read_magic(BytesIO(head))
    wide = {(1, 0): 2, (2, 0): 4}.get(version)
    if wide is None:
        raise ValueError(f"version {version} of the format holds no plain numbers")
    length = int.from_bytes(head[8 : 8 + wide], "little")
    if length > _MOST_HEADER:
        raise ValueError(f"a header of {length} bytes")
    start = 8 + wide + length
    header = BytesIO(head[8:] + file.read(max(0, start - len(head))))
    parse = npy_format.read_array_header_1_0 if wide == 2 else npy_format.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about headers of old
        shape, fortran, dtype = parse(header)
    plain_type = dtype.kind in _KINDS and dtype.itemsize and dtype.subdtype is None
    if not plain_type or len(shape) > 32 or any(length < 0 for length in shape):
        raise ValueError(f"{shown(str(dtype))} {shown(shape)} holds no plain numbers")
    stored = Stored(path, member, tuple(map(int, shape)), dtype, fortran, start)
    if stored.nbytes != count - start:
        raise ValueError(f"{dtype} {shown(shape)} would take {stored.nbytes} bytes, there are {count - start}")
    return stored

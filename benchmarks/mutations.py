"""What may be done to the bytes of a file: to bytes, text, JSON, TOML, arrays, archives and tensors."""

import gzip
import io
import json
import random
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

Change = Callable[[random.Random, bytes], bytes]


# ---- changes of bytes

_NUMBERS = (*range(4), *(2**n + d for n in (3, 7, 8, 12, 15, 16, 24, 31, 32, 40, 63) for d in (-1, 0)))
_REALS = ("nan", "inf", "-inf", "1e30", "1e308", "-1e308", "1e-320", "-0.0", "0.5")
_LITERALS = (
    *map(str, _NUMBERS), *(f"-{n}" for n in _NUMBERS), *_REALS, "9" * 30, "9" * 400, "9" * 5000, "0x" + "f" * 8000,
    "1_0", "true", "null", '""', '"x"', '"\\u0000"', '"\\ud800"', '"../../x"', f'"{"y" * 3000}"', '"\\n"', "🙂",
    "[]", "{}", "[[1]]", "[1, 2, 3]", '{"a": 1}', "[" * 3000, "[" * 200 + "]" * 200, "1979-05-27", "'", "#",
)  # fmt: skip


def _flip(rng: random.Random, content: bytes) -> bytes:
    raw = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if raw:
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return bytes(raw)


def _cut(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _insert(rng: random.Random, content: bytes) -> bytes:
    at = rng.randrange(len(content) + 1)
    return (
        content[:at] + rng.choice((rng.randbytes(rng.randrange(1, 40)), b"\0" * rng.randrange(1, 200))) + content[at:]
    )


def _repeat(rng: random.Random, content: bytes) -> bytes:
    a, b = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:b] + content[a:b] * rng.choice((1, 2, 20)) + content[b:] if b - a < 10_000 else content


def _remove(rng: random.Random, content: bytes) -> bytes:
    a, b = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:a] + content[b:]


def _number(rng: random.Random, content: bytes) -> bytes:
    """Writes a number of 1, 2, 4 or 8 bytes, of either order, somewhere: into a header, as a rule of small files."""
    size = rng.choice((1, 2, 4, 8))
    if len(content) < size:
        return content
    at = rng.randrange(min(len(content), rng.choice((64, 512, 10**9))) - size + 1)
    value = rng.choice((*_NUMBERS, len(content), rng.randrange(256))) * rng.choice((1, 1, -1)) % 256**size
    return content[:at] + value.to_bytes(size, rng.choice(("little", "big"))) + content[at + size :]


BYTES: tuple[Change, ...] = (_flip, _cut, _insert, _repeat, _remove, _number)


# ---- changes of text


def _literal(rng: random.Random, content: bytes) -> bytes:
    """Another value in the place of a number, a string or a word."""
    found = [*re.finditer(rb'-?[0-9][0-9.eE+]*|"[^"\n]{0,40}"|\btrue\b|\bfalse\b', content)]
    if not found:
        return content
    match = rng.choice(found)
    return content[: match.start()] + rng.choice(_LITERALS).encode() + content[match.end() :]


def _line(rng: random.Random, content: bytes) -> bytes:
    """A line left out, doubled, moved, or all of them with other ends."""
    rows = content.split(b"\n")
    i, j = (rng.randrange(len(rows)) for _ in range(2))
    what = rng.randrange(6)
    if what == 0:
        del rows[i]
    elif what == 1:
        rows.insert(i, rows[j])
    elif what == 2:
        rows[i], rows[j] = rows[j], rows[i]
    elif what == 3:
        return rng.choice((b"\r\n", b"\r", b"\x0b", b"\xe2\x80\xa8")).join(rows)
    elif what == 4:
        return rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\0")) + content
    else:
        rows[i] = rows[i] * rng.choice((2, 50))
    return b"\n".join(rows)


def _key(rng: random.Random, content: bytes) -> bytes:
    """A word of the file in the place of another, or in capital letters."""
    words = [*re.finditer(rb"[A-Za-z_][A-Za-z_0-9]*", content)]
    if not words:
        return content
    match, other = rng.choice(words), rng.choice(words).group()
    return content[: match.start()] + rng.choice((other, other, match.group().upper())) + content[match.end() :]


_FIELDS = [
    f"{name} = {value}"
    for name, values in {
        "size": (1, 3, 65_536, 32_768), "recurrent": ("true",), "neuron": ('"li"', '"alpha"', '"step"', '"count"'),
        "connection": ('"conv"', '"pool"'), "channels": (1, 65_536), "groups": (2,), "shape": ("[1, 6]", "[1, 6, 1]"),
        "kernel": ("[2]", "[65535]", "[1, 1]", "[0]"), "stride": ("[1]", "[65535]"), "padding": ("[1]", "[65534]"),
        "delays": ("[0, 4096]", "[1]", "[-1]"), "inputs": ('["input"]', '["a", "input"]'), "add": ('"a"',),
        "states": (1, 2, 16, '"float"'), "weights": (1, 8, '"learned"', '"float"'), "norm": ('"psp"', '"batch"'),
        "state_quantizer": ('"squat"', '"shared"', '"aligned"', '"dq"'), "steps": (1, 65_535), "spikes": (15,),
        "reset": ('"zero"', '"none"'), "timing": ('"immediate"', '"snntorch"'), "adaptation": (1, 1000), "rate": (0,),
        "method": ('"ridge"', '"saf-e"'), "loss": ('"steps"', '"regression"'), "budget": (1, 2**31 - 1), "a.b.c": (1,),
        ".".join("k" * 20): (1,), ".".join("k" * 2000): (1,), "n" * 2000: (1,), '"a\\nb"': (1,),
        "pool": (1, '"max"', "[" + "1," * 999 + "]"),
    }.items()
    for value in values
]  # fmt: skip


def a_field(rng: random.Random, content: bytes) -> bytes:
    """One more line that says something of a layer or of the training."""
    rows = content.split(b"\n")
    rows.insert(rng.randrange(len(rows) + 1), rng.choice(_FIELDS).encode())
    return b"\n".join(rows)


def a_tree(rng: random.Random, content: bytes) -> bytes:
    """JSON of which one value is another, gone, or twice there."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return content
    places: list[tuple[Any, Any]] = []
    pending = [document]
    while pending:
        value = pending.pop()
        inside = (
            list(value.items())
            if isinstance(value, dict)
            else list(enumerate(value))
            if isinstance(value, list)
            else []
        )
        places += [(value, key) for key, _ in inside]
        pending += [item for _, item in inside]
    if not places:
        return content
    (holder, key), (other, from_key) = (rng.choice(places) for _ in range(2))
    what = rng.randrange(5)
    if what == 0:
        del holder[key]
    elif what == 1:
        holder[key] = json.loads(json.dumps(other[from_key]))
    elif what == 2 and isinstance(holder, list):
        holder[key:key] = [holder[key]] * rng.choice((1, 3, 300))
    elif what == 3 and isinstance(holder, dict):
        holder[rng.choice(("", "x", "\0", "é" * 500, str(from_key)))] = holder.pop(key)
    else:
        number = rng.choice(_NUMBERS) * rng.choice((1, -1))
        holder[key] = rng.choice(
            (number, float(rng.choice(_REALS)), None, True, [], {}, "x" * 999, f"{number} 1", [[]], "1 " * 3000)
        )
    return json.dumps(document).encode()


TEXT: tuple[Change, ...] = (_literal, _line, _key)


# ---- changes of arrays


def _spoilt(rng: random.Random, array: np.ndarray) -> np.ndarray:
    what = rng.randrange(8)
    if what == 0:
        kind = rng.choice(
            ("f2", "f4", "f8", "i1", "u1", "i2", "<u8", ">i4", ">f8", "c8", "?", "U3", "S2", "g", "M8[s]", "O")
        )
        with np.errstate(all="ignore"):
            return array.astype(kind) if array.dtype.kind in "biuf" else array
    if what == 1:
        return array.reshape(rng.choice(((-1,), (1, *array.shape), (*array.shape, 1), (*array.shape, 1, 1, 1, 1))))
    if what == 2:
        return array[: rng.randrange(max(1, len(array)))] if array.ndim else array[None]
    if what == 3:
        return np.asfortranarray(array.T if rng.randrange(2) else array)
    if what == 4 and array.size:
        array = (
            array.astype(rng.choice(("f2", "f4", "f8")))
            if array.dtype.kind in "biuf" and rng.randrange(2)
            else array.copy()
        )
        if array.dtype.kind == "f":
            with np.errstate(all="ignore"):
                array.flat[rng.randrange(array.size)] = float(rng.choice(_REALS))
        elif array.dtype.kind in "iu":
            lo, hi = np.iinfo(array.dtype).min, np.iinfo(array.dtype).max
            array.flat[rng.randrange(array.size)] = rng.choice(
                (lo, hi, 0, 255 if hi >= 255 else hi, -1 if lo < 0 else 1)
            )
        return array
    if what == 5:
        return np.zeros(
            rng.choice(((0,), (0, 3), (), (10**5,), (50, 4, 3))), array.dtype if array.itemsize <= 16 else np.float64
        )
    if what == 6 and array.ndim:
        return np.repeat(array, rng.choice((2, 40)), axis=rng.randrange(array.ndim))
    return np.array(["a", "bc"])


def npy(array: np.ndarray) -> bytes:
    """The bytes of a .npy file."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    return stream.getvalue()


def an_array(rng: random.Random, content: bytes) -> bytes:
    """A .npy file of another array, or with a header that says so."""
    try:
        array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except Exception:
        return content
    return _lied(rng, content) if rng.randrange(2) else npy(_spoilt(rng, array))


def _lied(rng: random.Random, content: bytes) -> bytes:
    """The header of a .npy file says another shape or type; its length stays."""
    start = content.find(b"{", 0, 20)
    end = content.find(b"\n", max(start, 0))
    if min(start, end) < 0:
        return content
    shape = tuple(rng.choice((*_NUMBERS, -1, 3)) for _ in range(rng.choice((0, 1, 2, 3, 3, 40))))
    kind = rng.choice(("<i8", "|u1", "<f2", "|O", "<U0", "<U99999", "|V8", "(9999,)<i8", "x"))
    text = content[start:end].decode("latin-1")
    if rng.randrange(4):
        text = re.sub(r"\([^)]*\)", str(shape), text, count=1)
    else:
        text = re.sub(r"'descr': '[^']*'", f"'descr': {kind!r}", text)
    text = rng.choice((text, text, text, "(" * 90, "{" * 9000, "__import__('os').abort()")).ljust(end - start)
    head = content[:8] + struct.pack("<H", min(65_535, len(text) + 1 + start - 10))
    return head + content[10:start] + text.encode("latin-1") + content[end:]


def an_archive(rng: random.Random, content: bytes) -> bytes:
    """A .npz file of which a member is another, gone, twice there, under another name, or larger than it seems."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    except Exception:
        return content
    if not members:
        return content
    i = rng.randrange(len(members))
    name, inside = members[i]
    what = rng.randrange(9)
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    if what == 0:
        del members[i]
        method = rng.choice((method, method, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    elif what == 1:
        members.append((name, inside))
    elif what == 2:
        members[i] = (
            rng.choice((name.removesuffix(".npy"), "x.npy", "\0.npy", "../x.npy", "y" * 9000 + ".npy", "é.npy")),
            inside,
        )
    elif what == 3:
        members[i] = (name, rng.choice(BYTES)(rng, inside))
    elif what == 4:
        members[i] = (name, rng.choice(members)[1])
    elif what == 5 and not rng.randrange(4):
        members[i] = (name, _bomb(rng))
    else:
        members[i] = (name, an_array(rng, inside))
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        with zipfile.ZipFile(stream, "w", method, compresslevel=1) as archive:
            for one, inside in members:
                undated = zipfile.ZipInfo(one.partition("\0")[0] or "x")
                archive.writestr(undated, inside, method, 1)
    return stream.getvalue()


_BOMBS = [npy(np.zeros(shape, np.uint8)) for shape in ((4_000_000,), (1000, 1000, 4), (20, 5, 40_000), (20, 200_000))]


def _bomb(rng: random.Random) -> bytes:
    """A member of many zeros, with a header that fits them."""
    return rng.choice(_BOMBS)


def a_stream(rng: random.Random, content: bytes) -> bytes:
    """A gzip stream of what is changed inside, or of many zeros behind the header that is there."""
    try:
        raw = gzip.decompress(content)
    except Exception:
        return content
    raw = rng.choice((_number, _flip, _cut))(rng, raw) if rng.randrange(8) else raw[:16] + bytes(4_000_000)
    return gzip.compress(raw, 1, mtime=0) * rng.choice((1, 1, 1, 2))


def a_header(rng: random.Random, content: bytes) -> bytes:
    """A safetensors file with another header before the same bytes."""
    length = int.from_bytes(content[:8], "little")
    if not 0 < length < len(content):
        return content
    header = rng.choice((a_tree, a_tree, *TEXT))(rng, content[8 : 8 + length])
    size = len(header) if rng.randrange(6) else rng.choice(_NUMBERS) % 2**64
    return size.to_bytes(8, "little") + header + content[8 + length :]


def a_weight(rng: random.Random, content: bytes) -> bytes:
    """A safetensors file with other numbers in it: of a float, infinity, NaN, nothing."""
    start = 8 + int.from_bytes(content[:8], "little")
    if start + 8 >= len(content):
        return content
    at = rng.randrange(start, len(content) - 4) // 4 * 4
    number = struct.pack("<f", rng.choice((0.0, -1.0, 1e30, -1e30, 1e-30, float("inf"), float("nan"), 3e38, 1e-45)))
    return content[:at] + number + content[at + 4 :]

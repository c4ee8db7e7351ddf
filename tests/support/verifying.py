"""What a test of `verify` changes in a build, and the rows that come of it."""

import hashlib
import json
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from quantal.export import network_file
from support.commands import Done


def sign(folder: Path) -> None:
    """Makes every digest right again, as an exporter would that made the fault itself."""
    proven = network_file.load(folder / "network.json", trust_digest=True)
    (folder / "network.json").write_text(network_file.dumps(proven))
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in manifest["files"]}
    manifest |= {"network": network_file.digest(proven), "files": {n: f"sha256:{d}" for n, d in digests.items()}}
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))


def rows_of(done: Done) -> list[dict[str, Any]]:
    """The rows, of a first mismatch its place alone: see values_of."""
    rows: list[dict[str, Any]] = json.loads(done.out)
    for row in rows:
        (row.get("first") or {}).pop("values", None)
    return rows


def values_of(done: Done) -> dict[str, int]:
    """What the neuron's labelled values are at the first row's first mismatch."""
    values: dict[str, int] = json.loads(done.out)[0]["first"]["values"]
    return values


def with_integer(text: str, start: str, index: int, change: Callable[[int], int]) -> str:
    """`text` with the index-th integer after the one place that matches the pattern `start` changed."""
    (place,) = re.finditer(start, text)
    number = list(islice(re.finditer(r"-?\d+", text[place.end() :]), index + 1))[-1]
    at, end = place.end() + number.start(), place.end() + number.end()
    return text[:at] + str(change(int(number[0]))) + text[end:]

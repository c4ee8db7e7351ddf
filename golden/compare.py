"""Compares what two states of this project export: every golden case, and every preset untrained from a fixed seed.

python golden/compare.py main .                 a git revision, and the files of this checkout as they are
python golden/compare.py build/before build/after   two folders that an earlier call left behind (--keep)

Equal must be: the shape of the network, its codes, tables, ops, intervals, states and vectors. Names, comments and the
texts of the files may differ, which is said, and counted. Exit code 1 if anything but text differs.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("qat", "export", "templates", "quantal/__init__.py", "quantal/__main__.py", "quantal/py.typed")
# What each preset is untrained on: samples, steps (0: frames), channels, largest value, classes, a label a step.
PRESETS = {
    "digits": (20, 0, 64, 16, 10, False),
    "ecg": (2, 1301, 4, 1, 6, True),
    "mnist": (20, 0, 784, 255, 10, False),
    "speech": (20, 64, 40, 255, 10, False),
}


# ---- exporting


def exported(side: str, folder: Path) -> Path:
    """The folder of builds, one a case: `side` itself if it is one, else made from that state of the project."""
    given = Path(side)
    if given.is_dir() and not (given / "golden").is_dir():
        return given
    with tempfile.TemporaryDirectory(prefix="compare-") as scratch:
        checkout = given.resolve() if given.is_dir() else _of_revision(side, Path(scratch) / "checkout")
        names = Path(scratch) / "names"  # the rooms under the name that they are installed by
        (names / "quantal").mkdir(parents=True)
        for room in ROOMS:
            (names / "quantal" / Path(room).name).symlink_to(checkout / room)
        environment = os.environ | {"PYTHONPATH": str(names)}
        _python(environment, "-c", _EXPORT, str(checkout / "golden"), str(folder))
        for preset in PRESETS:
            _export_preset(environment, checkout, preset, Path(scratch), folder)
    return folder


_EXPORT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import regenerate
for case in regenerate.cases():
    regenerate.regenerate(case, Path(sys.argv[2]) / case)
"""


def _of_revision(revision: str, checkout: Path) -> Path:
    checkout.mkdir()
    archive = subprocess.run(["git", "-C", ROOT, "archive", revision], stdout=subprocess.PIPE, check=True)
    subprocess.run(["tar", "-x", "-C", checkout], input=archive.stdout, check=True)
    return checkout


def _export_preset(environment: dict[str, str], checkout: Path, preset: str, scratch: Path, folder: Path) -> None:
    """Trains the preset for no epoch, on random data of its task's shape, and exports it."""
    samples, steps, channels, maximum, classes, stepwise = PRESETS[preset]
    rng = np.random.default_rng(0)
    shape = (samples, *([steps] if steps else []), channels)
    x = rng.integers(0, maximum, shape, endpoint=True)
    x.flat[0] = maximum
    y = np.resize(np.arange(classes), (samples, steps) if stepwise else samples)
    data, run, toml = (scratch / f"{preset}.{end}" for end in ("npz", "run", "toml"))
    np.savez(data, x_train=x, y_train=y, x_test=x, y_test=y)
    said = (checkout / f"qat/config/presets/{preset}.toml").read_text(encoding="utf-8")
    toml.write_text(re.sub(r"\[task\]\n(.+\n)+", '[task]\nname = "npz"\n', said), encoding="utf-8")
    quantal = ("-m", "quantal")
    _python(
        environment, *quantal, "train", "--network", str(toml), "--data", str(data), "--epochs", "0", "--out", str(run)
    )
    _python(environment, *quantal, "export", str(run), "--out", str(folder / f"preset_{preset}"), "--name", preset)


def _python(environment: dict[str, str], *arguments: str) -> None:
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, cwd="/")
    if done.returncode:
        sys.exit(f"{' '.join(arguments[:4])}: {done.stdout[-500:]}{done.stderr[-2000:]}")


# ---- comparing


def differences(before: Path, after: Path) -> Iterator[str]:
    """What one build computes differently from the other, a line each."""
    networks = [json.loads((folder / "network.json").read_text(encoding="utf-8")) for folder in (before, after)]
    for where in ("input", "arithmetic"):
        if networks[0][where] != networks[1][where]:
            yield f"{where}: {networks[0][where]} became {networks[1][where]}"
    layers = [{layer["name"]: layer for layer in network["layers"]} for network in networks]
    if list(layers[0]) != list(layers[1]):
        yield f"layers: {', '.join(layers[0])} became {', '.join(layers[1])}"
    for name in layers[0].keys() & layers[1].keys():
        yield from (f"layer {name}: {line}" for line in _of_layers(layers[0][name], layers[1][name]))
    yield from _of_vectors(before, after)


def _of_layers(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for field in ("size", "states", "weights", "output", "output_name"):
        if before[field] != after[field]:
            yield f"{field} differ" if field == "weights" else f"{field}: {before[field]} became {after[field]}"
    ops = [[_meaning(op) for op in layer["ops"]] for layer in (before, after)]
    if ops[0] == ops[1]:
        return
    old, new = (Counter(op["op"] for op in some) for some in ops)
    counts = [f"{kind} {old[kind]} to {new[kind]}" for kind in old | new if old[kind] != new[kind]]
    yield f"{len(ops[0])} ops became {len(ops[1])} ({', '.join(counts) or 'as many of each'})"
    first = next((i for i, pair in enumerate(zip(*ops, strict=False)) if pair[0] != pair[1]), min(map(len, ops)))
    shown = [str(some[first])[:120] if first < len(some) else "nothing" for some in ops]
    yield f"the first that is another, {first}: {shown[0]} became {shown[1]}"


def _meaning(op: dict[str, Any]) -> dict[str, Any]:
    """The op without what is for readers: its label, and what a table is called."""
    for_readers = {"label", "name"} if op["op"] == "TABLE" else {"label"}
    return {key: value for key, value in op.items() if key not in for_readers}


def _of_vectors(before: Path, after: Path) -> Iterator[str]:
    with np.load(before / "vectors.npz") as old, np.load(after / "vectors.npz") as new:
        for name in sorted({*old.files, *new.files}):
            if name not in old.files or name not in new.files:
                yield f"vectors: {name} is {'new' if name in new.files else 'gone'}"
            elif old[name].shape != new[name].shape:
                yield f"vectors: {name}: {old[name].shape} became {new[name].shape}"
            elif not np.array_equal(old[name], new[name]):
                yield f"vectors: {name}: {np.mean(old[name] != new[name]):.2%} of the values differ"


def texts(before: Path, after: Path) -> list[str]:
    """The files that are not the same, byte for byte."""
    names = {path.name for folder in (before, after) for path in folder.iterdir()}

    def content(folder: Path, name: str) -> bytes | None:
        return (folder / name).read_bytes() if (folder / name).exists() else None

    return sorted(name for name in names if content(before, name) != content(after, name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", help="a git revision, a checkout, or a folder of builds")
    parser.add_argument("after", help="the same")
    parser.add_argument("--keep", type=Path, help="leave the builds in the folders KEEP/before and KEEP/after")
    given = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="compare-") as scratch:
        kept = given.keep or Path(scratch)
        for name in ("before", "after"):
            shutil.rmtree(kept / name, ignore_errors=True)
            (kept / name).mkdir(parents=True)
        before, after = (exported(getattr(given, name), kept / name) for name in ("before", "after"))
        cases = [{path.parent.name for path in folder.glob("*/network.json")} for folder in (before, after)]
        for case in sorted(cases[0] ^ cases[1]):
            wrong += 1
            print(f"{case}: only in {given.before if case in cases[0] else given.after}")
        changed: Counter[str] = Counter()
        for case in sorted(cases[0] & cases[1]):
            for line in differences(before / case, after / case):
                wrong += 1
                print(f"{case}: {line}")
            own = case.removeprefix("preset_")
            changed.update(name.replace(own, "NAME", 1) for name in texts(before / case, after / case))
        said = ", ".join(f"{name} of {count}" for name, count in sorted(changed.items())) or "none"
        print(f"{len(cases[0] & cases[1])} cases compared: {wrong} differences; the text differs of {said}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""Exports every golden case again from its run, and compares the result with what is committed, byte for byte.

python golden/regenerate.py            says what differs; exit code 1 if anything does
python golden/regenerate.py --write    puts the new files in place: say in the commit why they changed
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from quantal.qat.reference import export_run
from quantal.qat.training.run import Run

FOLDER = Path(__file__).resolve().parent


def cases() -> list[str]:
    """The names of the golden cases."""
    return sorted(path.parent.name for path in FOLDER.glob("*/run"))


def regenerate(case: str, out: Path) -> None:
    """Exports the case's run to the folder `out`."""
    export_run(Run.open(FOLDER / case / "run"), out, case)


def differences(case: str, out: Path) -> list[str]:
    """The files that are not the same, byte for byte, in `out` and in the committed build."""
    committed = FOLDER / case / "build"
    names = {path.name for folder in (committed, out) if folder.is_dir() for path in folder.iterdir()}

    def content(path: Path) -> bytes | None:
        return path.read_bytes() if path.exists() else None

    return sorted(name for name in names if content(committed / name) != content(out / name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the new files in place")
    write = parser.parse_args().write
    changed = 0
    with tempfile.TemporaryDirectory() as folder:
        for case in cases():
            out = Path(folder) / case
            regenerate(case, out)
            for name in differences(case, out):
                changed += 1
                print(f"golden/{case}/build/{name} {'replaced' if write else 'differs'}")
            if write:
                shutil.rmtree(FOLDER / case / "build", ignore_errors=True)
                shutil.copytree(out, FOLDER / case / "build")
    print(f"{changed} files differ")
    return 1 if changed and not write else 0


if __name__ == "__main__":
    sys.exit(main())

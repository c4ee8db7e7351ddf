"""Fills in what scripts write in the pages: the lines between `<!-- SCRIPT: FUNCTION -->` and `<!-- end -->`.

python docs/fill.py            writes them anew: README.md and all pages of docs/
python docs/fill.py --check    exits with 1, naming the pages in which they are not what the scripts return
"""

import argparse
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- ([\w/]+)\.py: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages() -> Iterator[Path]:
    """Every page that people read."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").rglob("*.md"))


def made(script: str, function: str) -> str:
    """What the function of the script, a path from the root without its ending, returns: Markdown."""
    folder = str((ROOT / script).parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    text: str = getattr(importlib.import_module(Path(script).name), function)()
    return text


def filled(page: str) -> str:
    """The page with each of its blocks as its script writes it now."""
    return BLOCK.sub(lambda block: f"{block[1]}\n{made(block[2], block[3])}\n\n{block[4]}", page)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check, stale = parser.parse_args().check, []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            stale.append(str(page.relative_to(ROOT)))
            if not check:
                page.write_text(new, encoding="utf-8")
    for name in stale:
        print(f"{name}: {'not what its scripts write' if check else 'written'}")
    sys.exit(bool(check and stale))


if __name__ == "__main__":
    main()

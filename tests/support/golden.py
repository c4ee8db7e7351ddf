"""The headers of the golden cases, and a share of them that has every line of the emitter in it."""

import re
from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
HEADERS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(GOLDEN.glob("*/build/*.h"))}
BY_SIZE = sorted(HEADERS, key=lambda case: (len(HEADERS[case]), case))


def shapes(header: str) -> set[str]:
    """The lines of code of the implementation, without tables, whatever names, numbers and words stand in them."""
    code = re.sub(r"/\*.*?\*/", "", header[header.index("_IMPLEMENTED\n") :], flags=re.DOTALL)
    code = re.sub(r"(?<=[^;{}\s])[ \\]*\n +(?=[^\s}])", " ", code)  # lines that go on
    values = set(re.findall(r"const int32_t (\w+) =", code)) - {"x", "top", "left"}
    code = re.sub(rf"\b({'|'.join(values)})\b", "v", code)
    code = re.sub(r"\bu?int\d+_t\b", "T", re.sub(r"\b(?!uint_fast|u?int\d)[A-Za-z]\w*_\w*", "N", code))
    code = re.sub(r"\(-2147483647 - 1\)", "v", re.sub(r"(?<![\w-])-?\d+u?\b", "#", code))
    code = re.sub(r"(\(v >= N\[#\]\) \+\s*)+", "", code)  # as many as there are borders
    code = code.replace("# + v", "v + #")
    return {line.strip() for line in code.splitlines() if re.search("[a-z]", line)}


def share() -> list[str]:
    """The headers that have every shape of line in them: small ones first, and none that adds no shape."""
    of = {case: shapes(HEADERS[case]) for case in BY_SIZE}
    chosen: list[str] = []
    while left := set.union(*of.values()).difference(*(of[case] for case in chosen)):
        chosen.append(max(BY_SIZE, key=lambda case: len(of[case] & left) / len(HEADERS[case])))
    for case in tuple(chosen):
        if not of[case].difference(*(of[other] for other in chosen if other != case)):
            chosen.remove(case)
    return chosen


SHARE = share()

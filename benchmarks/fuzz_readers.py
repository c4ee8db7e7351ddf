"""Hostile inputs for every reader: none but BadInput may come of them, in one short line that names the file.

Each reader runs in a process of its own, whose memory is bounded; so is the time for each input. What was done is in
fuzz_readers.csv; what was found is kept in a folder, with its input. A second call goes on where the first one ended.
"""

import argparse
import csv
import mmap
import os
import re
import resource
import signal
import struct
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hostile import Reader, readers
from study import table

from quantal.export.base.errors import BadInput

COLUMNS = ("reader", "first", "inputs", "refused", "found", "peak_mib", "slowest_ms", "slowest")
ROWS = Path(__file__).with_suffix(".csv")
MEMORY, SECONDS, LETTERS = 512 << 20, 5, 500
"""Bytes beyond what the process has, seconds of the processor, and letters of a message beside the path, at most."""


class TooLong(BaseException):
    """The time for one input is over. No reader may take it for a malformed file."""


@dataclass
class Tally:
    """What came of some inputs."""

    inputs: int = 0
    refused: int = 0
    peak: int = 0
    slowest: float = 0.0
    which: int = 0


def complaint(reader: Reader) -> tuple[bool, str]:
    """Whether the file as it is now is refused, and what is wrong with that: nothing, as a rule."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            reader.read()
    except BadInput as error:
        line = str(error)
        beside = line.replace(str(reader.file.parent), "")
        if len(line.splitlines()) != 1:
            return True, f"several lines: {line[:200]!r}"
        if len(beside) > LETTERS:
            return True, f"{len(beside)} letters: {line[:200]!r}"
        if reader.file.name not in line and reader.file.parent.name not in line:
            return True, f"no file named: {line[:200]!r}"
        return True, ""
    except (Exception, TooLong, SystemExit) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "fuzz_readers" not in frame.filename]
        ours = [frame for frame in frames if re.search(r"/(export|qat)/", frame.filename)]
        at = [f"{Path(frame.filename).name}:{frame.name}" for frame in (*ours[-1:], *frames[-1:])]
        return False, f"{type(error).__name__} in {' '.join(at)}: {str(error)[:200]!r}"
    return False, ""


def _expire(*_: object) -> None:
    raise TooLong


def _resident(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(found[1]) << 10 if found else 0


def tried(reader: Reader, numbers: Iterator[int], tally: Tally) -> Iterator[tuple[int, str]]:
    """Gives the reader those inputs, and yields (number, what is wrong) of those that are not answered well."""
    signal.signal(signal.SIGPROF, _expire)
    with open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
        file.write("5")  # the peak is what is resident now
    before = _resident("VmHWM")
    for number in numbers:
        reader.file.write_bytes(reader.input(number))
        start = time.perf_counter()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        refused, wrong = complaint(reader)
        signal.setitimer(signal.ITIMER_PROF, 0)
        taken = time.perf_counter() - start
        tally.inputs, tally.refused = tally.inputs + 1, tally.refused + refused
        if tally.inputs % 32 == 0:
            tally.peak = max(tally.peak, _resident("VmHWM") - before)
        if taken > tally.slowest:
            tally.slowest, tally.which = taken, number
        if wrong:
            yield number, wrong


def _child(reader: Reader, first: int, seconds: float, shared: mmap.mmap, found: Path) -> None:
    """Tries inputs from `first` on; the number that is being tried stands in `shared`, for whoever finds us dead."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (pages + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    end, tally = time.monotonic() + seconds, Tally()

    def numbers() -> Iterator[int]:
        number = first
        while time.monotonic() < end:
            shared[:] = struct.pack(
                "<qqqqdq", number, tally.inputs, tally.refused, tally.peak, tally.slowest, tally.which
            )
            yield number
            number += 1
        shared[:] = struct.pack("<qqqqdq", number, tally.inputs, tally.refused, tally.peak, tally.slowest, tally.which)

    for number, wrong in tried(reader, numbers(), tally):
        note(found, reader, number, wrong)


def findings(found: Path) -> list[list[str]]:
    """What was found, a row each: reader, kind, number of the input, what is wrong."""
    path = found / "found.csv"
    return list(csv.reader(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []


def note(found: Path, reader: Reader, number: int, wrong: str) -> None:
    """Keeps what was found: a row, and the input, unless the like is there already."""
    kind = re.sub(r"[0-9]+", "#", wrong.partition(": ")[0] + wrong.partition(": ")[2][:60])
    if [reader.name, kind] not in [row[:2] for row in findings(found)]:
        with (found / "found.csv").open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow((reader.name, kind, number, wrong))
        (found / f"{re.sub(r'[^a-zA-Z]', '_', reader.name)}-{number}").write_bytes(reader.input(number))


def _processor(process: int) -> float:
    """Seconds of the processor that it has used: others may have it meanwhile."""
    ticks = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def run(reader: Reader, first: int, seconds: float, found: Path) -> Tally:
    """Tries inputs from `first` on for so long, in a process of its own: in another one after an input that ends it."""
    shared, tally = mmap.mmap(-1, 48), Tally()
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        child = os.fork()
        if not child:
            try:
                _child(reader, first, left, shared, found)
            except BaseException:
                (found / "child.log").write_text(traceback.format_exc(), encoding="utf-8")
            finally:
                os._exit(0)
        last, since, spent, status = -1, time.monotonic(), 0.0, 0
        while os.waitpid(child, os.WNOHANG)[0] == 0:
            now = struct.unpack("<q", shared[:8])[0]
            if now != last:
                last, since, spent = now, time.monotonic(), _processor(child)
            if _processor(child) - spent > 2 * SECONDS or time.monotonic() - since > 60 * SECONDS:
                os.kill(child, signal.SIGKILL)
                status = 1
            time.sleep(0.05)
        number, inputs, refused, peak, slowest, which = struct.unpack("<qqqqdq", shared[:])
        finished = time.monotonic() >= end - 0.2 and not status
        tally.inputs, tally.refused = tally.inputs + inputs, tally.refused + refused
        tally.peak = max(tally.peak, peak)
        if slowest > tally.slowest:
            tally.slowest, tally.which = slowest, which
        first = number
        if not finished:
            note(found, reader, number, "the process hung" if status else "the process died")
            first, tally.inputs = number + 1, tally.inputs + 1
    return tally


def rows() -> list[dict[str, str]]:
    """What has been done."""
    if not ROWS.exists():
        return []
    with ROWS.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def add_row(reader: Reader, seconds: float, found: Path) -> None:
    """Goes on with the inputs of a reader for so long, and writes what came of it."""
    first = max((int(row["first"]) + int(row["inputs"]) for row in rows() if row["reader"] == reader.name), default=0)
    before = len(findings(found))
    tally = run(reader, first, seconds, found)
    new = not ROWS.exists()
    with ROWS.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        figures = f"{tally.peak / 2**20:.1f}", f"{1000 * tally.slowest:.1f}", tally.which
        writer.writerow((reader.name, first, tally.inputs, tally.refused, len(findings(found)) - before, *figures))


def report() -> str:
    """A row a reader: hostile inputs tried, what came of them, the most memory and time that one took."""
    lines, done = [], rows()
    for name in dict.fromkeys(row["reader"] for row in done):
        own = [row for row in done if row["reader"] == name]
        inputs, refused, wrong = (sum(int(row[key]) for row in own) for key in ("inputs", "refused", "found"))
        peak, slowest = max(float(row["peak_mib"]) for row in own), max(float(row["slowest_ms"]) for row in own)
        counts = (f"{n:,}" for n in (inputs, refused, inputs - refused, wrong))
        lines.append((name, *counts, f"{peak:.1f}", f"{slowest:.0f}"))
    total = [sum(int(row[key]) for row in done) for key in ("inputs", "refused", "found")]
    lines.append(("all", *(f"{n:,}" for n in (total[0], total[1], total[0] - total[1], total[2])), "", ""))
    return table(("reader", "inputs", "refused", "read", "found", "most MiB", "slowest, ms"), lines)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=0, help="how long; without it only the table is shown")
    parser.add_argument("--reader", action="append", help="only this one; may be repeated")
    parser.add_argument("--slot", type=float, default=20, help="seconds that a reader has before the next has its own")
    parser.add_argument("--found", type=Path, default=Path("build/fuzz"), help="a folder for what is found")
    options = parser.parse_args()
    os.environ["QUANTAL_MEMORY"] = "0.25"
    options.found.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * options.minutes
    scratch = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        chosen = readers(Path(folder)) if options.minutes else []
        chosen = [reader for reader in chosen if not options.reader or reader.name in options.reader]
        while time.monotonic() < end:
            for reader in chosen:
                reader.file.write_bytes(reader.seeds[0])
                add_row(reader, options.slot, options.found)
                reader.file.write_bytes(reader.seeds[0])
                if time.monotonic() > end:
                    break
    print(report())
    for row in findings(options.found):
        print(row)


if __name__ == "__main__":
    main()

"""What is written: inside the folder that was given, whole or not at all, and what cannot be written is said."""

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
from safetensors import safe_open

from quantal.export.base import files
from quantal.export.base.errors import BadInput
from quantal.export.build import Build
from quantal.qat.training.run import Run
from support.commands import contents, quantal, succeed
from support.messages import one_line

TRAIN, EXPORT = "train --network net.toml --epochs 2 --out new", "export run --out new"
FULL = "--weights float --states float"
RESUME = "train --resume --epochs 3 --out run"
WRITERS = [
    TRAIN.replace("--out", "--from run --teacher run --out"),
    RESUME,
    EXPORT,
    "prune full --keep 5 --out new",
]


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


# ---- where it is written


def empty(path: Path) -> None:
    path.mkdir()


def link(path: Path) -> None:
    path.with_name("elsewhere").mkdir()
    path.symlink_to("elsewhere", target_is_directory=True)


def root_of_a_file_system(path: Path) -> None:
    (path / "lost+found").mkdir(parents=True)


@pytest.mark.parametrize("command", [EXPORT, TRAIN])
@pytest.mark.parametrize("made", [empty, link, root_of_a_file_system])
def test_a_folder_that_is_there_is_written_inside(place: Path, command: str, made: Callable[[Path], None]) -> None:
    """Another folder in its place would not do: it may be a mount point, or its parent may not be ours."""
    made(place / "new")
    before = os.lstat("new"), os.stat("new").st_ino
    parent = os.stat(".").st_ino, set(os.listdir())
    succeed(*command.split())
    after = os.lstat("new"), os.stat("new").st_ino
    assert (after[0].st_ino, after[0].st_mode, after[1]) == (before[0].st_ino, before[0].st_mode, before[1])
    assert (os.stat(".").st_ino, set(os.listdir())) == parent
    check = Build.open if command == EXPORT else Run.open
    check(Path("new"))


@pytest.mark.parametrize("command", [EXPORT, f"{TRAIN} --teacher run"])
def test_modes_are_those_of_the_umask(place: Path, command: str) -> None:
    os.umask(0o027)
    succeed(*command.split())
    modes = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in (Path("new"), *Path("new").rglob("*"))}
    assert modes <= {(True, 0o750), (False, 0o640)}
    assert (True, 0o750) in modes


def test_a_file_that_is_replaced_keeps_its_mode_and_its_place_behind_a_link(place: Path) -> None:
    checkpoint = Path("run/checkpoint.safetensors")
    checkpoint.rename("disk")
    checkpoint.symlink_to("../disk")
    Path("disk").chmod(0o660)
    Path("run/metrics.jsonl").chmod(0o606)
    before = Path("disk").read_bytes()
    succeed("train", "--resume", "--epochs", 2, "--out", "run")
    assert checkpoint.is_symlink()
    assert Path("disk").read_bytes() != before
    assert stat.S_IMODE(Path("disk").stat().st_mode) == 0o660
    assert stat.S_IMODE(Path("run/metrics.jsonl").stat().st_mode) == 0o606


def test_a_file_that_is_replaced_keeps_its_group(tmp_path: Path) -> None:
    """Asked of the system, not done: who may give files to which group differs."""
    (tmp_path / "x").write_bytes(b"")
    status = os.stat(tmp_path / "x")
    with mock.patch("os.chown", create=True, side_effect=PermissionError) as chown:
        files.write(tmp_path / "x", b"more")
    assert [call.args[1:] for call in chown.call_args_list] == [(status.st_uid, status.st_gid)]
    assert (tmp_path / "x").read_bytes() == b"more"


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda path: path.write_text("x"), "new: already exists"),
        (lambda path: (path / "below").mkdir(parents=True), "new: already exists"),
        (lambda path: (path.mkdir(), (path / ".hidden").write_text("x")), "new: already exists"),
        (lambda path: (path.mkdir(), (path / ".MANIFEST.json.part").write_text("")), "new: not whole: another process"),
    ],
)
@pytest.mark.parametrize("command", [EXPORT, TRAIN])
def test_what_holds_something_is_left_alone(place: Path, made: Callable[[Path], None], why: str, command: str) -> None:
    made(place / "new")
    before = contents(place)
    done = quantal(*command.split())
    assert (done.code, done.err.startswith(f"quantal: {why}"), done.err.count("\n")) == (2, True, 1), done.err
    assert contents(place) == before


def test_a_link_to_nowhere_is_left_alone(place: Path) -> None:
    Path("new").symlink_to("nowhere")
    done = quantal(*EXPORT.split())
    assert (done.code, done.err.startswith("quantal: new: already exists")) == (2, True), done.err
    assert os.readlink("new") == "nowhere"
    assert not Path("nowhere").exists()


def test_of_two_that_write_one_folder_one_does(tmp_path: Path) -> None:
    """Whatever the other does between the look whether the folder is free and the first file."""
    out = tmp_path / "out"

    def late(other: Callable[[], object]) -> BadInput:
        def making(path: Path, made: list[Path]) -> None:
            with mock.patch("quantal.export.base.files._make", make):
                make(path, made)
                other()

        make = files._make
        with mock.patch("quantal.export.base.files._make", making), pytest.raises(BadInput) as error:
            files.write_folder(out, {"mine": "1", "last": "2"}, last="last")
        one_line(error, "out")
        return error.value

    late(lambda: files.write_folder(out, {"theirs": "1", "last": "2"}, last="last"))
    assert contents(out) == {"theirs": b"1", "last": b"2"}
    shutil.rmtree(out)
    late(lambda: (out / ".last.part").write_text(""))
    assert contents(out) == {".last.part": b""}


@pytest.mark.parametrize(
    ("folder", "marker", "commands"),
    [
        ("build", "MANIFEST.json", ["verify build", "cost build"]),
        (
            "run",
            "checkpoint.safetensors",
            ["export run --out new", "train --resume --out run", "verify build --run run"],
        ),
    ],
)
def test_a_folder_without_its_marker_is_not_whole(place: Path, folder: str, marker: str, commands: list[str]) -> None:
    (place / folder / marker).unlink()
    for command in commands:
        done = quantal(*command.split())
        assert done.code == 2
        assert done.err.startswith(f"quantal: {folder}/{marker}: missing"), done.err
        assert f"{folder} is not whole" in done.err


def test_the_marker_is_the_last_to_be_there(place: Path) -> None:
    seen = []
    ordinary = files._place

    def noting(path: Path, content: bytes | str) -> Path:
        seen.append(str(path))
        return ordinary(path, content)

    with mock.patch("quantal.export.base.files._place", noting):
        succeed(*EXPORT.split())
        succeed("train", "--network", "net.toml", "--epochs", 0, "--teacher", "run", "--out", "again")
    build, run = seen[:7], seen[7:]
    assert sorted(build) == sorted(f"new/{name}" for name in contents(Path("new")))
    assert sorted(run) == sorted(name for name in map(str, Path("again").rglob("*")) if Path(name).is_file())
    assert (build[-1], run[-1]) == ("new/MANIFEST.json", "again/checkpoint.safetensors")


# ---- what cannot be written


@contextmanager
def disk_full_at(number: int) -> Iterator[list[int]]:
    """The disk is full at the `number`-th time that something is put on it, whose last bytes are not there then."""
    calls, ordinary = [], os.fsync

    def fsync(handle: int) -> None:
        status = os.fstat(handle)
        if stat.S_ISREG(status.st_mode):
            calls.append(handle)
            if len(calls) == number:
                os.ftruncate(handle, max(0, status.st_size - 20))
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        ordinary(handle)

    with mock.patch("os.fsync", fsync):
        yield calls


@pytest.fixture
def disk(place: Path) -> Path:
    """The current folder, with a run in full precision, too."""
    succeed("train", "--network", "net.toml", *FULL.split(), "--out", "full")
    return place


def is_whole(run: Path) -> None:
    """The run can be opened, and has a line for each epoch of its checkpoint."""
    with safe_open(run / "checkpoint.safetensors", "pt") as file:
        done = int(file.get_tensor("epochs_done"))
    assert [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").open()] == list(range(1, done + 1))
    Run.open(run)


@pytest.mark.parametrize("command", WRITERS)
def test_a_full_disk_is_said_and_leaves_nothing_half_written(
    disk: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it gets full; and with space again, the same is made as in one go."""
    out = Path(command.split()[-1])
    resume = f"train --resume --epochs {3 if command == RESUME else 2} --out {out}"

    def anew() -> None:
        place = disk.with_name("again")
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(disk, place)
        monkeypatch.chdir(place)

    anew()
    with disk_full_at(0) as calls:
        succeed(*command.split())
    wanted = contents(out)
    for number in range(1, len(calls) + 1):
        anew()
        with disk_full_at(number):
            done = quantal(*command.split())
        assert (done.code, done.err.count("\n")) == (2, 1), done.err
        assert done.err.startswith(f"quantal: {out}")
        assert "cannot be written (No space left on device)" in done.err
        assert [name for name in contents(Path(".")) if name.endswith(files.PARTIAL)] == []
        if out.exists():  # the run was begun
            is_whole(out)
            assert "--resume goes on" in done.err or command == RESUME
            command_then = resume
        else:
            assert contents(Path(".")) == contents(disk)
            command_then = command
        succeed(*command_then.split())
        assert contents(out) == wanted
    assert len(calls) >= 4


@pytest.mark.parametrize(
    ("command", "limit", "file"),
    [
        (EXPORT, 2_000, "new/network.json"),
        (EXPORT, 16_000, "new/digits.h"),
        (TRAIN, 500, "new/network.toml"),
        (TRAIN, 8_000, "new/checkpoint.safetensors"),
        (RESUME, 8_000, "run/checkpoint.safetensors"),
    ],
)
def test_the_reason_is_that_of_the_system(place: Path, command: str, limit: int, file: str) -> None:
    """A file larger than this process may write: as a quota, or a full disk, in the midst of a file."""
    resource = pytest.importorskip("resource")
    before, hard = contents(place), resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        done = quantal(*command.split())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert done.code == 2
    assert done.err.startswith(f"quantal: {file}: cannot be written (File too large)"), done.err
    assert contents(place) == before


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("folder", "Is a directory"),
        ("file/below", "Not a directory"),
        ("nowhere/x", "No such file or directory"),
        ("n" * 300, "File name too long"),
    ],
)
def test_each_way_to_write_says_why_not(tmp_path: Path, path: str, why: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("as it was")
    before = contents(tmp_path)

    def append(file: Path, content: str) -> None:
        with files.appended(file, content):
            pass

    for way in (files.write, files.scratch, append):
        with pytest.raises(BadInput) as error:
            way(tmp_path / path, "x")
        one_line(error, f"{path}: cannot be written ({why})")
    assert contents(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with a name")
def test_what_is_no_file_is_neither_waited_for_nor_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")

    def append(file: Path, content: str) -> None:
        with files.appended(file, content):
            pass

    for way in (files.write, append):
        for name in ("pipe", "link", "zero"):
            with pytest.raises(BadInput, match=r"cannot be written \(not a regular file\)$"):
                way(tmp_path / name, "x")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link", "pipe", "zero"]
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("command", WRITERS)
def test_an_interruption_while_writing_leaves_nothing_half_written(disk: Path, command: str) -> None:
    before = contents(disk)
    with mock.patch("quantal.export.base.files._take_over", side_effect=KeyboardInterrupt):
        assert quantal(*command.split()).code == 130
    after = contents(disk)
    if command == RESUME:  # a line more than epochs, which --resume takes away
        assert str(after.pop("run/metrics.jsonl")).startswith(str(before.pop("run/metrics.jsonl"))[:-1])
    assert after == before
    succeed(*command.split())


def test_what_a_killed_process_left_is_in_nobodys_way(place: Path) -> None:
    Path("run/.checkpoint.safetensors.part").write_bytes(b"half")
    with Path("run/metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "lo')
    succeed(*RESUME.split())
    is_whole(Path("run"))
    assert not Path("run/.checkpoint.safetensors.part").exists()


def test_a_run_that_needs_no_epoch_is_not_written(place: Path) -> None:
    with mock.patch("quantal.export.base.files._place", side_effect=AssertionError):
        succeed("train", "--resume", "--out", "run")

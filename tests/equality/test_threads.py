"""Helper threads do each thing once, stop at a fault, and let Ctrl-C wait for them."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from quantal.qat.engine import cpu
from support.threads import THREADS

# ---- threads


def in_three_threads(work: Callable[[int], Any], count: int) -> None:
    """cpu._each with three threads."""
    try:
        cpu.set_threads(3)
        cpu._each(work, count)
    finally:
        cpu.set_threads(THREADS)


def test_each_is_done_once_by_more_than_one_thread() -> None:
    done: list[int] = []
    all_here = threading.Barrier(3, timeout=30)  # nobody goes on before three are at work

    def work(index: int) -> None:
        if index < 3:
            all_here.wait()
        done.append(index)

    in_three_threads(work, 50)
    assert sorted(done) == list(range(50))


@pytest.mark.parametrize("fault", [KeyboardInterrupt, RuntimeError, IndexError, StopIteration])
@pytest.mark.parametrize("where", ["this thread", "a helper"])
def test_after_a_fault_no_thread_works_any_more(where: str, fault: type[BaseException]) -> None:
    """What they write to may be freed then."""
    here, all_here, faulty = threading.get_ident(), threading.Barrier(3, timeout=30), threading.Event()
    at_work, seen = [0], []
    lock = threading.Lock()

    def work(index: int) -> None:
        with lock:
            at_work[0] += 1
            seen.append(index)
        try:
            all_here.wait()
            if (threading.get_ident() == here) == (where == "this thread"):
                faulty.set()
                raise fault(index)
            assert faulty.wait(30)
            time.sleep(0.05)  # goes on for a while after the other has failed
        finally:
            with lock:
                at_work[0] -= 1

    with pytest.raises(fault):
        in_three_threads(work, 50)
    assert at_work == [0]
    assert len(seen) == 3  # nobody took more
    in_three_threads(seen.append, 9)  # and the threads serve again
    assert len(seen) == 3 + 9


@pytest.fixture
def _ctrl_c() -> Iterator[None]:
    """Ctrl-C is heard, as it is not in what a shell runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c")
def test_ctrl_c_waits_for_helpers_however_often_it_is_pressed() -> None:
    main, all_here, pressed = threading.main_thread(), threading.Barrier(2, timeout=30), threading.Event()
    assert threading.current_thread() is main
    ended: list[int] = []

    def press() -> None:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.02)
        pressed.set()

    def work(index: int) -> None:
        all_here.wait()
        if threading.current_thread() is main:
            threading.Thread(target=press).start()
            for _ in range(6000):
                time.sleep(0.005)
        assert pressed.wait(30)
        ended.append(index)

    try:
        cpu.set_threads(2)
        with pytest.raises(KeyboardInterrupt):
            cpu._each(work, 2)
    finally:
        cpu.set_threads(THREADS)
    assert len(ended) == 1

"""The integers of a network are the same whatever the user's process asks of decimal, torch and the processor."""

import decimal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest
import torch
from quantal.qat.arithmetic import exact
from quantal.qat.config import schema
from quantal.qat.network.trace import hard_trace
from support.digest import digest_of_networks
from support.torch_networks import random_input, random_network


@pytest.fixture(scope="module")
def expected() -> str:
    """The digest of networks that are made in an ordinary process."""
    return digest_of_networks()


# ---- decimal


@contextmanager
def decimals(**settings: int | str) -> Iterator[None]:
    """Gives the thread a decimal context with these settings, and new contexts the same."""
    default = decimal.DefaultContext
    before = {name: getattr(default, name) for name in settings}
    with decimal.localcontext() as context:
        try:
            for name, value in settings.items():
                setattr(context, name, value)
                setattr(default, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(default, name, value)


@pytest.mark.parametrize(
    "settings", [{"prec": 2}, {"prec": 6, "rounding": decimal.ROUND_UP}, {"Emax": 1, "Emin": -1}, {"clamp": 1}], ids=str
)
def test_a_decimal_context_of_the_user_decides_no_integer(settings: dict[str, int | str], expected: str) -> None:
    powers = exact.exp(-1.3), exact.exp(300.0), exact.power(0.3, 1.7)
    with decimals(**settings):
        assert (exact.exp(-1.3), exact.exp(300.0), exact.power(0.3, 1.7)) == powers
        assert digest_of_networks() == expected


def test_a_decimal_context_that_traps_everything_traps_nothing_of_ours() -> None:
    powers = exact.exp(-1.3), exact.power(0.3, 1.7)
    with decimal.localcontext() as context:
        for signal in context.traps:
            context.traps[signal] = True
        assert (exact.exp(-1.3), exact.power(0.3, 1.7)) == powers
        assert not any(context.flags.values())


# ---- threads


@pytest.fixture
def asked() -> Iterator[exact.Precision]:
    """What a user who asks for medium precision has set; afterwards all is as it was."""
    before = exact.precision()
    torch.set_float32_matmul_precision("medium")
    yield exact.precision()
    exact._set(before)


def inside() -> AbstractContextManager[None]:
    return exact.exact_products(torch.device("cpu"))


def test_products_stay_exact_until_the_last_thread_has_made_its_own(asked: exact.Precision) -> None:
    """The first to come goes first: it must neither take exactness from the second nor leave it to the user."""
    first, second = inside(), inside()
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        one.submit(first.__enter__).result()
        other.submit(second.__enter__).result()
        one.submit(first.__exit__, None, None, None).result()
        assert exact.precision() == exact.EXACT
        other.submit(second.__exit__, None, None, None).result()
    assert exact.precision() == asked


def test_a_user_who_asks_while_others_multiply_reaches_no_product_that_begins_later(asked: exact.Precision) -> None:
    with inside():
        exact._set(asked)
        with inside():
            assert exact.precision() == exact.EXACT
    assert exact.precision() == asked


def test_the_users_setting_outlives_threads_that_run_a_network(asked: exact.Precision) -> None:
    layer = schema.Layer("hidden", 9, recurrent=True)
    network = random_network(layer, schema.Layer("o", 3, neuron="li"), channels=5, maximum=9, seed=3)
    x = random_input(4, 6, 5, 9, 0)
    expected = hard_trace(network, x, torch.float32)

    def runs(_: int) -> list[dict[str, np.ndarray]]:
        return [hard_trace(network, x, torch.float32) for _ in range(25)]

    with ThreadPoolExecutor(4) as pool:
        traces = [trace for made in pool.map(runs, range(4)) for trace in made]
    assert all(np.array_equal(trace[name], expected[name]) for trace in traces for name in expected)
    assert exact.precision() == asked

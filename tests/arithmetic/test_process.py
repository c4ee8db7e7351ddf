"""The integers of a network are the same whatever the user's process asks of decimal, torch and the processor."""

import decimal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from quantal.qat.arithmetic import exact
from support.digest import digest_of_networks


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

"""Whatever stands in a file, the message about it is short and one line."""

from functools import partial

import pytest

from quantal.export.base.errors import listed, named, shown
from quantal.export.ir.network import Layer
from quantal.export.ir.network import Network as Program
from quantal.export.ir.ops import Input, Lookup, Step
from quantal.export.proof.intervals import prove
from quantal.qat.config import config_file
from support.commands import NETWORK
from support.reading import refused

# ---- messages


VALUES = ["x" * 10**6, "\0" * 999, 10**4000, 1 << 20_000, [*range(10**5)], {"a": [*range(10**4)]}, b"x" * 999, "a\nb"]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_a_value_is_shown_short_and_in_one_line(value: object) -> None:
    assert len(shown(value)) <= 60
    assert shown(value).isprintable()
    deep: object = []
    for _ in range(10**4):
        deep = [deep]
    assert len(shown(deep)) <= 60
    assert shown([8]) == "[8]"
    assert len(named("k" * 10**5)) <= 60
    assert named("a\nb").isprintable()
    assert listed(range(10**4)).endswith(", ...")
    assert len(listed(range(10**4))) < 260


@pytest.mark.parametrize(
    "line",
    [
        f"{'.'.join('k' * 3000)} = 1",
        f'"{"k" * 3000}" = 1',
        f"size = 0x{'f' * 9000}",
        f"size = [{'1, ' * 3000}]",
        f'size = "{"x" * 3000}"',
        f"weights = [{'[' * 50}{']' * 50}]",
        f"inputs = ['{'x' * 3000}']",
        "recurent = true",
    ],
)
def test_a_configuration_is_refused_in_a_short_line(line: str) -> None:
    for table in ("[encoder]", "[[layer]]", "[training]"):
        refused(partial(config_file.loads, NETWORK.replace(table, f"{table}\n{line}", 1), "net.toml"), "net.toml")


def test_a_misspelt_field_is_told_the_name_it_is_nearest_to() -> None:
    text = NETWORK.replace("recurrent = true", "recurent = true")
    refused(lambda: config_file.loads(text, "net.toml"), "recurent: not a field of dense, did you mean recurrent? ")


def test_a_key_of_many_parts_takes_no_time() -> None:
    """tomllib takes hours over a megabyte of them."""
    for part in ("k", '"="', "'#'", " k "):
        for text in (f"{'.'.join([part] * 100_000)} = 1", f"[{'.'.join([part] * 100_000)}]"):
            refused(partial(config_file.loads, f"{NETWORK}\n{text}", "net.toml"), "net.toml: ", "few parts")
    text = NETWORK.replace("epochs = 1", "epochs = 1  # " + "a.b " * 99)
    assert config_file.loads(text, "net.toml") == config_file.loads(NETWORK, "net.toml")


def test_thousands_of_layers_are_refused() -> None:
    layers = "".join(f'[[layer]]\nname = "a{n}"\nsize = 1\n' for n in range(5000))
    refused(lambda: config_file.loads(NETWORK + layers, "net.toml"), "net.toml", "layer: expected at most 4096")


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1, 10**30])
def test_a_border_or_a_level_beyond_32_bits_is_refused_with_its_place(number: int) -> None:
    step, lookup = Step(0, (number,)), Lookup(0, (3, 4, number))
    for op, words in ((step, "STEP (value 1): borders"), (lookup, "LOOKUP (value 1): levels")):
        layer = Layer("a", 1, {}, (Input("input"), op), (), {}, 1, "o")
        refused(partial(prove, Program("n", 1, 0, 1, {}, (layer,))), f"layer a: {words}: {number} is beyond 32 bits")

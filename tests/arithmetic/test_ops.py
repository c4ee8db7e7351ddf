"""The vocabulary of the arithmetic: what is written against it says nothing else, and every reading knows it."""

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest

from quantal.export.ir.builder import Builder
from quantal.qat.arithmetic import grids, neurons, wiring
from quantal.qat.arithmetic.ops import Ops, SoftOps
from quantal.qat.arithmetic.torch_ops import TorchOps
from quantal.qat.engine.adjoint import Recorder


def words(vocabulary: type) -> dict[str, Any]:
    """Its ops by name."""
    found = inspect.getmembers(vocabulary, inspect.isfunction)
    return {name: function for name, function in found if not name.startswith("_")}


@pytest.mark.parametrize(
    ("reading", "vocabulary"), [(TorchOps, SoftOps), (Builder, Ops), (Recorder, Ops)], ids=lambda one: one.__name__
)
def test_every_reading_knows_the_vocabulary(reading: type, vocabulary: type) -> None:
    for name, word in words(vocabulary).items():
        values = [None] * (len(inspect.signature(word).parameters) - 1)
        inspect.signature(getattr(reading, name)).bind(None, *values)


def test_the_arithmetic_says_nothing_else_and_every_word_means_something() -> None:
    said = {
        node.func.attr
        for module in (grids, neurons, wiring)
        for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if isinstance(node.func.value, ast.Name) and node.func.value.id == "ops"
    }
    assert said == set(words(SoftOps))
    assert all(word.__doc__ for word in words(SoftOps).values())

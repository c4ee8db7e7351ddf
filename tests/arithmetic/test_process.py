"""The integers of a network are the same whatever the user's process asks of decimal, torch and the processor."""

import ast
import ctypes
import decimal
import platform
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch

from quantal.export.base.errors import BadInput
from quantal.export.base.fixed import Ints
from quantal.export.network_file import digest
from quantal.qat.arithmetic import exact
from quantal.qat.config.parts.layers import Layer
from quantal.qat.config.parts.network import Config, Direct, Task
from quantal.qat.config.parts.training import Bptt
from quantal.qat.lower import exact_dtype, lower
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.network.trace import hard_trace
from quantal.qat.quantizers.normalization import NORMS
from quantal.qat.quantizers.states import STATE_QUANTIZERS
from quantal.qat.quantizers.weights import WEIGHT_QUANTIZERS
from support.digest import digest_of_networks
from support.graphs import GRAPHS, INPUTS, MOST, graph
from support.layers import a_layer
from support.neurons import KINDS
from support.sources import ROOT
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
    layer = a_layer("hidden", 9, recurrent=True)
    network = random_network(layer, a_layer("o", 3, neuron="li"), channels=5, maximum=9, seed=3)
    x = random_input(4, 6, 5, 9, 0)
    expected = hard_trace(network, x, torch.float32)

    def runs(_: int) -> list[dict[str, np.ndarray]]:
        return [hard_trace(network, x, torch.float32) for _ in range(25)]

    with ThreadPoolExecutor(4) as pool:
        traces = [trace for made in pool.map(runs, range(4)) for trace in made]
    assert all(np.array_equal(trace[name], expected[name]) for trace in traces for name in expected)
    assert exact.precision() == asked


# ---- what torch makes tensors of, and where


@pytest.fixture(params=["float16", "bfloat16", "float64", "meta"])
def _asking(request: pytest.FixtureRequest) -> Iterator[None]:
    """A process that asks torch for other floats, or for a device on which nothing is computed."""
    if request.param == "meta":
        torch.set_default_device("meta")
        yield
        torch.set_default_device(None)
    else:
        torch.set_default_dtype(getattr(torch, request.param))
        yield
        torch.set_default_dtype(torch.float32)


def config_of(*layers: Layer, **training: Any) -> Config:
    readout = a_layer("out", 3, neuron="li", state_range=32.0)
    return Config(task=Task(name="digits"), encoder=Direct(), layers=(*layers, readout), training=Bptt(**training))


def hidden(**options: Any) -> Config:
    return config_of(a_layer("hidden", 6, **options))


CONFIGS = [
    *(hidden(**options) for options in KINDS.values()),
    *(hidden(states=4, state_quantizer=name) for name in STATE_QUANTIZERS),
    *(hidden(weights=2, weight_quantizer=name) for name in WEIGHT_QUANTIZERS),
    *(config_of(a_layer("first", 5), a_layer("hidden", 6, norm=name)) for name in NORMS),
    hidden(adaptation=0.3, adaptation_spread=4.0, decay_per="neuron", standardize=True),
    hidden(states=4, state_quantizer="aligned", timing="immediate"),
    hidden(refractory=301),
    hidden(recurrent=True, reservoir=True, rate=0.1),
    config_of(a_layer("hidden", 6, weights="learned"), loss="regression"),
    *(graph(name) for name in GRAPHS if not name.startswith("neurons")),  # whose kinds stand above
]


@dataclass(frozen=True)
class Made:
    """A network, the digest of its integers, and what it does with an input (samples, steps, inputs)."""

    network: SpikingNetwork
    digest: str
    x: Ints
    trace: dict[str, np.ndarray]

    @classmethod
    def of(cls, config: Config) -> Self:
        network = SpikingNetwork(config, INPUTS, MOST)
        lowered, x = lower(network, "n"), random_input(3, 5, network.inputs, network.input_maximum, 0)
        return cls(network, digest(lowered), x, hard_trace(network, x, exact_dtype(lowered)))


@pytest.fixture(scope="module")
def ordinary() -> list[Made]:
    """The networks of an ordinary process."""
    return [Made.of(config) for config in CONFIGS]


@pytest.mark.usefixtures("ordinary", "_asking")  # in that order
def test_one_seed_is_one_network_whatever_torch_is_asked_for(ordinary: list[Made]) -> None:
    for expected in ordinary:
        got, place = Made.of(expected.network.config), expected.network.config.layers
        tensors = got.network.state_dict()
        for name, tensor in expected.network.state_dict().items():
            assert tensors[name].device == tensor.device, (name, place)
            assert tensors[name].dtype == tensor.dtype, (name, place)
            assert torch.equal(tensors[name], tensor), (name, place)
        assert got.digest == expected.digest, place
        assert all(np.array_equal(got.trace[name], values) for name, values in expected.trace.items()), place


MAKERS = {
    *("arange", "as_tensor", "asarray", "empty", "eye", "full", "linspace", "logspace", "normal", "ones", "rand"),
    *("randint", "randn", "randperm", "range", "scalar_tensor", "tensor", "tril_indices", "triu_indices", "zeros"),
}
"""The functions of torch that make a tensor as the process asks, unless they are told."""


def untold(path: Path) -> Iterator[str]:
    """Where a file makes a tensor without saying what of, or where."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {f"torch.{name}" for name in MAKERS}:
            told = {keyword.arg for keyword in node.keywords}
            if None not in told and not {"dtype", "device"} <= told:  # None is **FLOAT32
                yield f"{path.name}:{node.lineno}: {ast.unparse(node)}"


def test_every_tensor_is_made_of_what_we_say_and_where_we_say() -> None:
    assert [line for path in (ROOT / "qat").rglob("*.py") for line in untold(path)] == []


# ---- how the processor rounds

NEAREST = 0
MODES = {"x86_64": (0x400, 0x800, 0xC00), "aarch64": (0x800000, 0x400000, 0xC00000)}
"""C's FE_DOWNWARD, FE_UPWARD and FE_TOWARDZERO, by machine."""


@contextmanager
def rounding(mode: int) -> Iterator[None]:
    """Gives this thread's floats that mode, as a library in C may."""
    library = ctypes.CDLL(None)
    assert library.fesetround(mode) == 0
    try:
        yield
    finally:
        library.fesetround(NEAREST)


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() not in MODES, reason="modes are a machine's own")
@pytest.mark.parametrize("which", range(3))
def test_another_rounding_than_to_nearest_is_refused(which: int, ordinary: list[Made]) -> None:
    network, x = ordinary[0].network, ordinary[0].x
    for refused in (lambda: hard_trace(network, x, torch.float32), lambda: lower(network, "n")):
        with pytest.raises(BadInput) as told, rounding(MODES[platform.machine()][which]):
            refused()
        assert str(told.value).startswith("floating point: expected rounding to nearest")
    exact.check_rounding()

"""Weights in the header: packed as said, and each event's arithmetic is that of the weights, by the cheapest means."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantal.export.base.fixed import Ints
from quantal.export.base.toolchain import CORES, compile_host, compile_object, section_sizes
from quantal.export.emit.c.packing import code_bits, packed
from quantal.export.emit.c.weights import _powers, _product, synapses
from quantal.export.ir.network import Layer, Network, StateVar
from quantal.export.ir.ops import Add, Clamp, Input, MatVec, State
from quantal.export.run import EXECUTORS
from support.headers import IN_C, implementation
from support.networks import input_for, write
from support.programs import TWO_POWERS, coded, header_of

LEVEL = st.integers(-(2**15), 2**15 - 1)


# ---- codes


@pytest.mark.parametrize(("signed", "least"), [(True, -128), (False, 0)])
@given(st.data())
def test_the_width_is_the_least_that_holds_all_codes(signed: bool, least: int, data: st.DataObject) -> None:
    lo, hi = sorted(data.draw(st.tuples(*[st.integers(least, least + 255)] * 2)))

    def holds(bits: int) -> bool:
        return (-(2 ** (bits - 1)) <= lo and hi < 2 ** (bits - 1)) if signed else hi < 2**bits

    bits = code_bits(np.array([[lo, hi]]), signed=signed)
    assert bits in (1, 2, 4, 8)
    assert [holds(b) for b in (1, 2, 4, 8)] == [b >= bits for b in (1, 2, 4, 8)]


@given(st.sampled_from([1, 2, 4]), st.integers(1, 20), st.integers(1, 5), st.booleans(), st.integers(0, 2**32))
def test_packed_codes_stand_in_their_bits_and_the_last_neurons_fills_the_last_byte(
    bits: int, neurons: int, inputs: int, signed: bool, seed: int
) -> None:
    least = -(1 << (bits - 1)) if signed else 0
    codes = np.random.default_rng(seed).integers(least, least + (1 << bits), (neurons, inputs))
    rows = packed(codes, bits)
    assert rows.shape == (inputs, -(-neurons * bits // 8))
    assert 0 <= rows.min() <= rows.max() <= 255
    per_byte = 8 // bits
    for source, row in enumerate(rows.tolist()):
        for place in range(len(row) * per_byte):
            code = row[place // per_byte] >> (bits * (place % per_byte)) & ((1 << bits) - 1)
            assert (code - int(codes[min(place, neurons - 1), source])) % (1 << bits) == 0


# ---- products of an event


def value(c: str, x: int) -> int:
    """What the C of a product gives for x."""
    python = re.sub(r"(\d)u\b", r"\1", c.replace("(int32_t)", "")).replace("/", "//")
    word = int(eval(python, {"x": x, "u": x % 2**32})) % 2**32
    return word - 2**32 if word >= 2**31 else word


@given(LEVEL, st.integers(-(2**31), 2**31 - 1))
def test_a_product_is_that_of_the_level_where_it_fits(level: int, x: int) -> None:
    word = level * x % 2**32
    assert value(_product(level), x) == (word - 2**32 if word >= 2**31 else word)


def test_a_level_of_at_most_two_powers_of_two_is_multiplied_by_nothing() -> None:
    for level in TWO_POWERS:
        assert "*" not in _product(level), level
        assert level == sum(sign << place for sign, place in _powers(level))
    few = {
        sign * 2**i + other * 2**j for sign in (-1, 0, 1) for other in (-1, 0, 1) for i in range(12) for j in range(12)
    }
    assert [level for level in range(-600, 600) if "*" not in _product(level)] == sorted(few & set(range(-600, 600)))


# ---- the way that is taken


def way(codes: Ints, levels: tuple[int, ...], x: tuple[int, int]) -> str:
    how = synapses(codes, 0, levels, x, (-9, 9), "table", "base")
    assert all(("products[" in t) == bool(how.event and not how.base) for t in how.terms)
    assert all(("table[" in t) == bool(how.table) for t in how.terms)
    multiplied = {" * x" in term for term in how.terms}
    assert len(multiplied) == 1
    kind = "count" if how.base else "products" if how.event else "table" if how.table else "weight"
    return kind + " * x" * multiplied.pop()


@pytest.mark.parametrize(
    ("top", "levels", "neurons", "spikes", "integers"),
    [
        (1, (), 9, "weight", "weight * x"),
        (7, (), 9, "weight", "weight * x"),
        (127, (), 9, "weight", "weight * x"),
        (1, (-1, 1), 9, "count", "count * x"),
        (1, (2**15 - 1, -(2**15)), 9, "count", "products"),
        (3, (5, 6, 7, 9), 9, "table", "products"),
        (3, (5, 6, 7, 9), 4, "table", "products"),
        (3, (5, 6, 7, 9), 3, "table", "table * x"),
        (15, tuple(range(16)), 99, "table", "products"),
        (16, tuple(range(17)), 99, "table", "table * x"),
        (2, (5, 6, 7, 9), 3, "table", "products"),
    ],
)
def test_synapses_are_reached_in_the_cheapest_way(
    top: int, levels: tuple[int, ...], neurons: int, spikes: str, integers: str
) -> None:
    codes = np.arange(neurons * 2).reshape(neurons, 2) % (top + 1)
    codes[0, 0] = top
    assert way(codes, levels, (0, 1)) == spikes
    assert way(codes, levels, (-(2**15), 2**15 - 1) if len(levels) == 2 and levels[0] > 1 else (-5, 3)) == integers


def header_for(network: Network) -> str:
    x = input_for(network, 6, 3)
    return header_of(network, x)


def test_the_header_says_whether_products_are_multiplications() -> None:
    text = header_for(coded((2,), -5, 3))
    blocks = re.findall(r"by (shifts and adds|multiplications) of words.*?products\[4\] = \{(.*?)\};", text, re.DOTALL)
    assert {how for how, _ in blocks} == {"shifts and adds", "multiplications"}
    for how, block in blocks:
        assert ("*" in re.sub(r"/\*.*?\*/", "", block)) == (how == "multiplications")


def test_two_products_of_one_matrix_share_it() -> None:
    codes = np.array([[0, 1], [2, 3]])
    levels = 5, 4, -7, 9
    ops = Input("input"), State("spike"), MatVec("w", 0, levels), MatVec("w", 1, levels), Add(2, 3), Clamp(4, 0, 1)
    layer = Layer("l", 2, {}, ops, (StateVar("spike", 0, 0, 1, 5),), {"w": codes}, 4, "out")
    text = header_for(Network("n", 2, 0, 1, {}, (layer,)))
    assert (text.count("n_priv_1_l_w[2][1] = {"), text.count("= n_priv_1_l_w[e];")) == (1, 2)


# ---- edges


def one_layer(codes: Ints, levels: tuple[int, ...], lo: int, hi: int) -> Network:
    layer = Layer("l", len(codes), {}, (Input("input"), MatVec("w", 0, levels)), (), {"w": codes}, 1, "out")
    return Network("edge", codes.shape[1], lo, hi, {}, (layer,))


EDGES: dict[str, Callable[[], Network]] = {
    # A level that would overflow is never asked for where x is large.
    "one input": lambda: one_layer(np.array([[0], [1], [3], [2], [0]]), (1, -1, 2**15 - 1, -(2**15)), 0, 2**16 - 1),
    "unused level": lambda: one_layer(np.array([[0, 2]] * 5), (1, 2**15 - 1, -1, 7), 0, 2**16 - 1),
    "zeros": lambda: one_layer(np.zeros((5, 3), int), (0, 0, 0), -3, 3),
    "one level": lambda: one_layer(np.zeros((5, 3), int), (-300,), -3, 3),
    "zeros of 2 bits": lambda: one_layer(np.arange(15).reshape(5, 3) % 4, (0, 0, 0, 0), -3, 3),
    "ones of 2 bits": lambda: one_layer(np.arange(15).reshape(5, 3) % 4, (0, 1, 0, 1), -3, 3),
    "one neuron": lambda: one_layer(np.array([[1, 0, 1]]), (-1, 1), 0, 1),
    "more than a count can hold": lambda: one_layer(
        np.tile(np.eye(3, dtype=int), (2, 1)), (1, 2**15 - 2), 0, 2**16 - 1
    ),
    "wide weights on spikes": lambda: one_layer(np.arange(15).reshape(5, 3) % 4, (300, -7, 0, 200), 0, 1),
    "200 events": lambda: one_layer(np.repeat([[1, 1], [0, 1], [1, 0]], 100, axis=1), (-1, 1), 0, 1),
    "no spikes, but -1 to 1": lambda: one_layer(np.arange(15).reshape(5, 3) % 4, (5, -6, 7, 9), -1, 1),
    "bits on -1 to 1": lambda: one_layer(np.arange(15).reshape(5, 3) % 2, (5, -6), -1, 1),
    "256 levels": lambda: one_layer(np.arange(300).reshape(100, 3) % 256, tuple(range(-128, 128)), -9, 9),
}


@pytest.mark.parametrize("edge", EDGES)
def test_edges_compile_clean_and_equal_the_interpreter(edge: str, tmp_path: Path) -> None:
    network = EDGES[edge]()
    build = write(network, tmp_path / "build", "edge", input_for(network, 9, 9))
    sanitize = ["-fsanitize=undefined", "-fno-sanitize-recover=all"]
    compile_host([build.test_program], tmp_path / "test", flags=[*IN_C, *sanitize])
    strict = "".join(f'#pragma clang diagnostic error "{flag}"\n' for flag in IN_C if flag.startswith("-W"))
    (tmp_path / "model.c").write_text(strict.replace('error "-Werror"', 'error "-Wall"') + implementation("edge"))
    compile_object(CORES["cortex-m0"], tmp_path / "model.c", tmp_path / "model.o", include=build.path)

    x, reference = build.vectors()
    for name in ("c-host", "simulator", "onnx"):
        with EXECUTORS[name](build) as run:
            got = run(x)
        assert all(np.array_equal(got[record], values) for record, values in reference.items()), name


@pytest.mark.parametrize(("bits", "share"), [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_flash_holds_codes_in_their_bits(bits: int, share: int, tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 1 << bits, (64, 40))
    network = one_layer(codes, tuple(range(1, 1 + (1 << bits))), 0, 1)
    (tmp_path / "edge.h").write_text(header_for(network))
    (tmp_path / "model.c").write_text('#define EDGE_IMPLEMENTATION\n#include "edge.h"\n')
    compile_object(CORES["cortex-m4"], tmp_path / "model.c", tmp_path / "model.o", include=tmp_path)
    weights = 64 * 40 // share
    assert weights <= section_sizes(tmp_path / "model.o").tables <= weights + 2 * (1 << bits)

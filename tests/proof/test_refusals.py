"""What cannot be proven is refused with layer, neuron and state named; planes and delays are proven."""

import numpy as np
import pytest

from quantal.export.base.errors import BadInput
from quantal.export.ir import interpret
from quantal.export.ir.network import Layer, Network, StateVar
from quantal.export.ir.ops import Add, Gt, Input, Lookup, MatVec, Mul, Op, Select, Shl, Shr, State, Step, Sub, Table
from quantal.export.proof.intervals import find_invariants, prove
from support.messages import one_line
from support.networks import input_for
from support.windows import WINDOWS, windowed

# ---- refusals


def layer_of(*ops: Op, states: tuple[StateVar, ...] = (), size: int = 3) -> Layer:
    return Layer("hidden", size, {}, ops, states, {}, len(ops) - 1, "out")


def refused(layer: Layer, *words: str, hi: int = 1) -> None:
    network = Network("n", layer.size, 0, hi, {}, (layer,))
    with pytest.raises(BadInput) as error:
        prove(network)
    one_line(error, "layer hidden", *words)


LARGE = 2**31 - 1


@pytest.mark.parametrize(
    ("ops", "words"),
    [
        ((Table((0, LARGE, 0)), Add(0, 1)), ("neuron 1", "ADD (value 2)", "[2147483647, 2147483648]")),
        ((Table((0, 0, -LARGE - 1)), Sub(1, 0)), ("neuron 2", "SUB (value 2)", "[-2147483649, -2147483648]")),
        ((Table((1, 2**30, 2**31 - 1)), Mul(0, 1), Shl(2, 1)), ("neuron 1", "SHL (value 3)", "[0, 2147483648]")),
        ((Table((1, 2, 2**15)), Shl(1, 16), Mul(0, 2)), ("neuron 2", "SHL (value 2)", "2147483648")),
        ((Table((1, 2, 50_000)), Mul(1, 1), Add(0, 2)), ("neuron 2", "MUL (value 2)", "2500000000")),
        ((Table((0, LARGE - 7, LARGE - 8)), Shr(1, 4), Add(0, 2)), ("neuron 1", "SHR (value 2)", "2147483648")),
    ],
)
def test_a_value_beyond_32_bits_is_refused_naming_layer_and_neuron(ops: tuple[Op, ...], words: tuple[str, ...]) -> None:
    refused(layer_of(Input("input"), *ops), *words)


def test_the_last_values_that_fit_32_bits_are_accepted() -> None:
    ops = (Input("input"), Table((LARGE - 1,)), Add(0, 1), Table((LARGE - 8,)), Shr(3, 4), Sub(0, 2))
    values = prove(Network("n", 3, 0, 1, {}, (layer_of(*ops),))).intervals[0]
    assert values[2].hull == (LARGE - 1, LARGE)


def test_a_product_beyond_32_bits_is_refused_naming_layer_and_neuron() -> None:
    weights = np.zeros((3, 300), np.int8)
    weights[1] = 127
    layer = Layer("hidden", 3, {}, (Input("input"), MatVec("w", 0)), (), {"w": weights}, 1, "out")
    with pytest.raises(BadInput) as error:
        prove(Network("n", 300, 0, 65535, {}, (layer,)))
    one_line(error, "layer hidden", "neuron 1", "MATVEC (value 1)", str(300 * 127 * 65535))


@pytest.mark.parametrize(
    ("init", "lo", "hi", "words"),
    [
        (0, 0, 5, ("neuron 2", "committed in [0, 6]", "[0, 5]")),
        (0, 1, 6, ("starts at 0", "[1, 6]")),
        (7, 0, 6, ("starts at 7", "[0, 6]")),
        (1, 1, 6, ("neuron 0", "committed in [0, 6]", "[1, 6]")),
    ],
)
def test_a_claim_that_is_no_invariant_is_refused_naming_layer_neuron_and_state(
    init: int, lo: int, hi: int, words: tuple[str, ...]
) -> None:
    ops = (Input("input"), Table((0, 4, 5)), Add(0, 1), State("u"), Gt(3, 1), Select(4, 0, 2))
    refused(layer_of(*ops, states=(StateVar("u", init, lo, hi, 2),)), "state u", *words)


def test_an_unbounded_accumulator_is_refused_naming_layer_and_state() -> None:
    ops = (Input("input"), State("u"), Add(0, 1))
    layer = layer_of(*ops, states=(StateVar("u", 0, 0, 1000, 2),))
    refused(find_invariants(Network("n", 3, 0, 1, {}, (layer,))).layers[0], "state u", "[0, 1001]")
    doubling = layer_of(*ops, Shl(2, 1), states=(StateVar("u", 0, 0, 1000, 3),))
    with pytest.raises(BadInput) as error:
        find_invariants(Network("n", 3, 0, 1, {}, (doubling,)))
    one_line(error, "layer hidden", "neuron 0", "32 bits")


def test_a_code_outside_its_levels_is_refused_naming_the_layer() -> None:
    code = (Input("input"), Step(0, (1, 2, 3)))
    refused(layer_of(*code, Lookup(1, (5, 6, 7))), "LOOKUP has 3 levels", "[0, 3]", hi=9)
    refused(layer_of(Input("input"), Table((1,)), Sub(0, 1), Lookup(2, (5, 6))), "LOOKUP", "[-1, 0]")
    values = prove(Network("n", 3, 0, 2, {}, (layer_of(*code, Lookup(1, (5, 6, 7))),))).intervals[0]
    assert values[2].hull == (5, 7)  # only the levels that the code reaches count


@pytest.mark.parametrize("case", WINDOWS)
def test_planes_pools_and_delays_lie_in_their_proven_intervals(case: str) -> None:
    for seed, (lo, hi) in enumerate([(0, 1), (-5, 3), (0, 255)]):
        network = windowed(case, 4, lo, hi, seed)
        trace = interpret.run(network, input_for(network, 8, 12, seed))
        for layer, proven in prove(network).layers:
            for name, value in layer.records():
                assert (proven[value].lo <= trace[name]).all(), name
                assert (trace[name] <= proven[value].hi).all(), name

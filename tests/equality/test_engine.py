"""The fused engine is the torch reading of the step: forward bit for bit, gradients as autograd has them."""

import ctypes
import itertools
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, given, settings

from quantal.export.base import toolchain
from quantal.qat.engine import cpu
from support.engines import (
    COMBINATIONS,
    KEEPING,
    KEPT,
    any_options,
    assert_equal,
    both,
    has_a_threshold,
    input_of,
    is_exact,
    keeping_of,
    layer_of,
    may_keep,
)
from support.threads import THREADS


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", COMBINATIONS, ids=lambda o: "-".join(map(str, o.values())))
def test_every_neuron_is_equal_fused(options: dict[str, Any], dtype: torch.dtype) -> None:
    layer, network = layer_of(3, 6, 1, **options)
    fused, reference = both(layer, network, input_of(2, (30, 19, 6), 1, 0.4, dtype))
    assert float(fused["output"].abs().sum()) > 0
    assert_equal(fused, reference, exact=True)


# Each way meets neurons in turn, as compiling takes a second; in Triton's interpreter, test_engine_cuda, it meets all.
@pytest.mark.parametrize(
    ("state_quantizer", "states", "keeping"),
    [
        (*kept, keeping)
        for kept, keeping in zip(KEPT, itertools.cycle(KEEPING), strict=False)
        if may_keep(*kept, keeping)
    ],
)
def test_every_way_to_keep_a_state_is_equal_fused(state_quantizer: str, states: int, keeping: str) -> None:
    layer, network = layer_of(3, 6, 3, **keeping_of(state_quantizer, states, keeping))
    fused, reference = both(layer, network, input_of(2, (12, 19, 6), 3, 0.4, torch.float64))
    assert float(fused["output"].std()) > 0
    if layer.ranges is not None:
        assert (fused["ranges"] != 0).any()
    assert_equal(fused, reference, exact=True)


@settings(max_examples=25, deadline=None)
@given(
    any_options(),
    st.tuples(st.integers(1, 40), st.integers(1, 35), st.integers(1, 9)),
    st.sampled_from([1, 16, 255]),
    st.sampled_from([0.02, 0.1, 0.9]),
    st.sampled_from([1.0, 10.0, 1000.0]),
    st.booleans(),
    st.integers(0, 1000),
)
def test_any_layer_is_equal_fused(
    options: dict[str, Any], shape: tuple[int, int, int], maximum: int, rate: float, sharpness: float, training: bool,
    seed: int,
) -> None:  # fmt: skip
    standardized = options["weight_quantizer"] == "maqd" or options["standardize"]
    assume(not standardized or shape[2] > 1)  # of a single weight nothing is left
    layer, network = layer_of(seed, shape[2], maximum, **options)
    assume(has_a_threshold(layer))
    layer.anneal(sharpness, soft=False)
    layer.train(training)
    fused, reference = both(layer, network, input_of(seed, shape, maximum, rate, torch.float64))
    if is_exact(layer):
        assert_equal(fused, reference, exact=True)
    else:
        assert {name: value.shape for name, value in fused.items()} == {n: v.shape for n, v in reference.items()}
        assert all(bool(torch.isfinite(value).all()) for value in fused.values())


@pytest.mark.parametrize("options", [{"recurrent": True}, {"recurrent": True, "reset": "zero", "timing": "immediate"}])
def test_gradients_are_finite_over_a_thousand_steps(options: dict[str, Any]) -> None:
    layer, network = layer_of(4, 6, 1, **options)
    fused, _ = both(layer, network, input_of(5, (1000, 2, 6), 1, 0.3, torch.float32))
    assert all(bool(torch.isfinite(value).all()) for value in fused.values())
    assert all(float(value.abs().max()) > 0 for value in fused.values())


@pytest.mark.parametrize("shape", [(30, 0, 6), (0, 4, 6)])
def test_nothing_in_gives_nothing_out_and_gradients_of_0(shape: tuple[int, int, int]) -> None:
    layer, network = layer_of(3, 6, 1, recurrent=True)
    x = torch.zeros(shape)
    layer(x, network.ops).sum().backward()
    assert all(float(p.grad.abs().sum()) == 0 for p in layer.parameters() if p.grad is not None)


def test_a_type_without_a_kernel_is_left_to_torch() -> None:
    layer, network = layer_of(3, 6, 1)
    x = input_of(2, (5, 3, 6), 1, 0.4, torch.bfloat16)
    assert torch.equal(layer(x, network.ops), layer(x, network.ops, {}))


@pytest.mark.parametrize("rate", [0.05, 0.6])
def test_a_whole_network_is_equal_fused(rate: float) -> None:
    _, network = layer_of(10, 30, 1, recurrent=True)
    x = input_of(11, (17, 40, 30), 1, rate, torch.float64)  # samples outermost, as batches come
    results = []
    for record in (None, {}):
        network.zero_grad()
        output = network(x, record)
        (output**2).sum().backward()
        results.append({"output": output.detach()} | {n: p.grad.clone() for n, p in network.named_parameters()})
    assert_equal(*results, exact=True)


@pytest.mark.parametrize("pool", ["last", "max"])
def test_an_integrator_in_full_precision_has_the_gradients_of_autograd(pool: str) -> None:
    layer, network = layer_of(3, 6, 1, neuron="li", pool=pool, weights="float", states="float")
    assert_equal(*both(layer, network, input_of(2, (30, 19, 6), 1, 0.4, torch.float64)), exact=False)


@pytest.mark.parametrize(
    ("state_quantizer", "states", "kept"),
    [
        ("uniform", 2, 1),
        ("uniform", 8, 1),
        ("uniform", 9, 2),
        ("uniform", 16, 2),
        ("uniform", "float", 4),
        ("dq", 8, 1),
    ],
)
def test_between_forward_and_backward_a_state_takes_its_own_bytes(state_quantizer: str, states: Any, kept: int) -> None:
    layer, network = layer_of(6, 20, 1, recurrent=True, state_quantizer=state_quantizer, states=states)
    x = input_of(7, (25, 16, 20), 1, 0.1, torch.float32)
    sizes: dict[int, int] = {}  # by address: what is kept twice takes its memory once

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape == (25, 16, 9):
            sizes[tensor.data_ptr()] = tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(x, network.ops)
    assert sorted(sizes.values()) == sorted([4, kept])  # the output and the membrane, nothing else


def test_the_number_of_threads_changes_nothing() -> None:
    layer, network = layer_of(6, 20, 1, recurrent=True)
    x = input_of(7, (25, 150, 20), 1, 0.1, torch.float32)
    try:
        cpu.set_threads(1)
        one, _ = both(layer, network, x)
        cpu.set_threads(3)
        two, _ = both(layer, network, x)
    finally:
        cpu.set_threads(THREADS)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_without_a_compiler_torch_trains_and_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    layer, network = layer_of(8, 6, 1)
    x = input_of(9, (5, 3, 6), 1, 0.5, torch.float32)
    fused, reference = both(layer, network, x)

    def no_compiler() -> list[str]:
        raise toolchain.BadInput("no C compiler")

    monkeypatch.setattr(toolchain, "host_compiler", no_compiler)
    monkeypatch.setattr(cpu, "_compiled", cpu._compiled.__wrapped__)
    monkeypatch.setattr(cpu, "cache_folder", lambda _: tmp_path)
    cpu.available.cache_clear()
    try:
        without, _ = both(layer, network, x)
    finally:
        cpu.available.cache_clear()
    assert capsys.readouterr().err.splitlines() == ["quantal: training in torch, several times slower: no C compiler"]
    assert all(torch.equal(without[name], reference[name]) for name in reference)
    assert torch.equal(without["output"], fused["output"])


def test_a_cache_that_moves_to_another_processor_serves_none_of_its_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cpu, "cache_folder", lambda _: tmp_path)
    for processor, made in (("one", 1), ("one", 1), ("another", 2)):
        monkeypatch.setattr(cpu, "_processor", lambda processor=processor: processor)
        cpu._compiled.__wrapped__("int some_code;", False)
        assert len(list(tmp_path.iterdir())) == made


def test_each_target_and_each_compiler_has_code_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[tuple[str, ...]] = []

    def compile_host(_: list[Path], out: Path, *, flags: tuple[str, ...]) -> None:
        made.append(flags)
        out.write_bytes(b"")

    monkeypatch.setattr(cpu, "cache_folder", lambda _: tmp_path)
    monkeypatch.setattr(cpu, "compile_host", compile_host)
    monkeypatch.setattr(ctypes, "CDLL", Path)
    for target in ("native", "x86-64", "x86-64-v3"):
        monkeypatch.setenv("QUANTAL_TARGET", target)
        for compiler in ("one", "another", "one"):
            monkeypatch.setattr(toolchain, "host_compiler", lambda compiler=compiler: [compiler])
            cpu._compiled.__wrapped__("int some_code;", False)
    assert len(made) == len(list(tmp_path.iterdir())) == 6
    assert [sum(f"-march={target}" in flags for flags in made) for target in ("native", "x86-64", "x86-64-v3")] == [
        2
    ] * 3
    assert all("-ffp-contract=off" in flags and "-ffast-math" not in flags for flags in made)

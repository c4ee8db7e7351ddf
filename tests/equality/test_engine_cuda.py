"""The fused engine on CUDA is the torch reading of the step. Where there is no GPU, Triton's interpreter is one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, given, settings
from torch import Tensor

from quantal.qat.arithmetic.exact import exact_products
from quantal.qat.arithmetic.surrogates import SURROGATES, Surrogate
from quantal.qat.arithmetic.torch_ops import TorchOps
from quantal.qat.engine import cuda
from quantal.qat.engine.adjoint import Plan
from quantal.qat.network.layer import SpikingLayer
from quantal.qat.network.network import SpikingNetwork
from support import kernels
from support.engines import (
    COMBINATIONS,
    KEEPING,
    KEPT,
    any_options,
    has_a_threshold,
    input_of,
    is_exact,
    keeping_of,
    layer_of,
    may_keep,
)
from support.graphs import graph
from support.kernels import A100, CHIPS, COMPILED, CONSUMER, DEVICE, H100, KINDS, use_kernels
from support.sources import SUPPORTED

pytest.importorskip("triton")
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-5}  # of the largest value
ANY_LAYER = TOLERANCE | {torch.float32: 1e-3}
"""Of a layer that is drawn: 3e-4 was seen behind a psp norm, over 35 steps. Sums of float32 differ by their order."""
CANCELLED = {torch.float32: 1e-6, torch.float64: 1e-10}  # of the largest of all: the noise of what cancels to 0


def results(layer: SpikingLayer, network: SpikingNetwork, x: Tensor, fused: bool) -> dict[str, Tensor]:
    """The output and the gradient of everything, for a random weighting of the output."""
    network.to(DEVICE, x.dtype).zero_grad()
    weighting = torch.randn(*x.shape[:2], layer.config.size, generator=torch.Generator().manual_seed(1))
    moved = x.to(DEVICE).requires_grad_()
    out = layer(moved, network.ops, None if fused else {})  # whoever records gets torch's own reading
    (out * weighting.to(moved)).sum().backward()
    named = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
    return {"output": out.detach(), "x": moved.grad, **named}


def compiles(options: dict[str, Any], kind: str) -> bool:
    """Whether it runs on the device: Triton compiles no products of float64."""
    return DEVICE.type == "cpu" or kind != "double" or not options.get("recurrent")


def assert_equal(
    monkeypatch: pytest.MonkeyPatch, layer: SpikingLayer, network: SpikingNetwork, x: Tensor, kind: str,
    tolerance: dict[torch.dtype, float] = TOLERANCE,
) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        plans = use_kernels(patch, kind)
        fused = results(layer, network, x, fused=True)
    assert len(plans) == 1
    reference = results(layer, network, x, fused=False)
    assert fused.keys() == reference.keys()
    assert torch.equal(fused["output"], reference["output"])
    least = CANCELLED[x.dtype] * max(float(value.abs().max()) for value in reference.values())
    for name, want in reference.items():
        limit = tolerance[x.dtype] * float(want.abs().max()) + least
        assert float((fused[name] - want).abs().max()) <= limit, name


@pytest.mark.parametrize(
    ("options", "kind"),
    [(options, kind) for options in COMBINATIONS for kind in KINDS if compiles(options, kind)],
    ids=lambda given: given if isinstance(given, str) else "-".join(map(str, given.values())),
)
def test_every_neuron_is_equal(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], kind: str) -> None:
    layer, network = layer_of(3, 6, 1, **options)
    assert_equal(monkeypatch, layer, network, input_of(2, (5, 7, 6), 1, 0.4, KINDS[kind]), kind)


@pytest.mark.parametrize("name", ["planes", "delays", "residual"])
def test_a_graph_is_equal(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Convolutions, added currents and diagonal recurrence: the products are given, not made by the kernels."""
    network = SpikingNetwork(graph(name), 64, 16)
    kind = "double" if DEVICE.type == "cpu" else "real"  # Triton compiles no products of float64
    x = input_of(2, (3, 7, 64), 16, 0.4, KINDS[kind])
    network.to(DEVICE, x.dtype)

    def gradients(record: dict[str, Tensor] | None) -> dict[str, Tensor]:
        network.zero_grad()
        out = network(x.to(DEVICE), record)
        out[:, -1].square().sum().backward()
        return {"output": out.detach()} | {
            n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None
        }

    with monkeypatch.context() as patch:
        plans = use_kernels(patch, kind)
        fused = gradients(None)
    reference = gradients({})
    assert any(plan.given or "diagonal" in plan.tables for plan in plans)
    assert fused.keys() == reference.keys()
    assert torch.equal(fused["output"], reference["output"])
    for parameter, want in reference.items():
        assert float((fused[parameter] - want).abs().max()) <= TOLERANCE[x.dtype] * float(want.abs().max()), parameter


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_every_surrogate_is_equal(monkeypatch: pytest.MonkeyPatch, surrogate: str) -> None:
    layer, network = layer_of(3, 6, 1, recurrent=True)
    network.ops = TorchOps(Surrogate(surrogate, 3.0))
    assert_equal(monkeypatch, layer, network, input_of(2, (5, 7, 6), 1, 0.4, torch.float32), "whole")


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize(("size", "steps", "batch"), [(1, 5, 1), (70, 7, 33), (130, 4, 21)])
def test_every_size_is_equal(
    monkeypatch: pytest.MonkeyPatch, size: int, steps: int, batch: int, recurrent: bool
) -> None:
    layer, network = layer_of(5, 11, 1, size=size, recurrent=recurrent, threshold_per="neuron", bias=True)
    x = input_of(4, (batch, steps, 11), 1, 0.4, torch.float32).transpose(0, 1)  # samples outermost, as batches come
    assert_equal(monkeypatch, layer, network, x, "whole")


@pytest.mark.parametrize(
    ("state_quantizer", "states", "keeping"), [(*kept, k) for kept in KEPT for k in KEEPING if may_keep(*kept, k)]
)
def test_every_way_to_keep_a_state_is_equal(
    monkeypatch: pytest.MonkeyPatch, state_quantizer: str, states: int, keeping: str
) -> None:
    options = keeping_of(state_quantizer, states, keeping)
    layer, network = layer_of(3, 6, 3, **options)
    kind = "double" if compiles(options, "double") else "whole"
    steps = 17 if states < 8 else 5  # whose tables have 256 levels, each of which takes its time
    assert_equal(monkeypatch, layer, network, input_of(2, (5, steps, 6), 3, 0.4, KINDS[kind]), kind)


@pytest.mark.parametrize("timing", ["delayed", "immediate"])
def test_many_spikes_at_once_stay_exact(monkeypatch: pytest.MonkeyPatch, timing: str) -> None:
    layer, network = layer_of(
        3, 6, 15, weights=8, states=8, spikes=15, threshold=0.1, recurrent=True, timing=timing
    )  # fmt: skip
    x = input_of(2, (12, 19, 6), 15, 0.4, torch.float32)
    assert int(layer(x, network.ops, {}).max()) > 8
    assert_equal(monkeypatch, layer, network, x, "whole")


@settings(max_examples=40 if DEVICE.type == "cpu" else 10, deadline=None)  # a GPU has each compiled
@given(
    any_options(),
    st.sampled_from(list(KINDS)),
    st.integers(1, 40),
    st.tuples(st.integers(1, 8), st.integers(1, 35), st.integers(1, 9)),
    st.sampled_from([1, 255]),
    st.booleans(),
    st.integers(0, 1000),
)
def test_any_layer_is_equal(
    options: dict[str, Any], kind: str, size: int, shape: tuple[int, int, int], maximum: int, training: bool, seed: int
) -> None:
    assume(compiles(options, kind))
    standardized = options["weight_quantizer"] == "maqd" or options["standardize"]
    assume(not standardized or min(size, shape[2]) > 1)  # of a single weight nothing is left
    layer, network = layer_of(seed, shape[2], maximum, **options, size=size)
    assume(has_a_threshold(layer))
    layer.train(training)
    x = input_of(seed, shape, maximum, 0.3, KINDS[kind])
    with pytest.MonkeyPatch.context() as patch:
        if is_exact(layer):
            assert_equal(patch, layer, network, x, kind, ANY_LAYER)
        else:
            use_kernels(patch, "real")
            fused = results(layer, network, x, fused=True)
            assert all(bool(torch.isfinite(value).all()) for value in fused.values())


def test_a_whole_network_is_equal_and_every_run_has_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    _, network = layer_of(10, 12, 1, recurrent=True)
    network.to(DEVICE)
    x = input_of(11, (40, 6, 12), 1, 0.3, torch.float32).to(DEVICE)

    def run(record: dict[str, Tensor] | None) -> dict[str, Tensor]:
        network.zero_grad()
        output = network(x, record)
        (output**2).sum().backward()
        return {"output": output.detach()} | {n: p.grad.clone() for n, p in network.named_parameters()}

    reference = run({})
    use_kernels(monkeypatch, "whole")
    first, second = run(None), run(None)
    assert torch.equal(first["output"], reference["output"])
    for name, want in reference.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


def test_without_gradients_it_keeps_nothing_and_is_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, network = layer_of(8, 6, 1, recurrent=True)
    network.to(DEVICE)
    x = input_of(9, (9, 20, 6), 1, 0.4, torch.float32).to(DEVICE)
    use_kernels(monkeypatch, "whole")
    with torch.no_grad():
        out = layer(x, network.ops)
    assert out.grad_fn is None
    assert torch.equal(out, layer(x, network.ops, {}))


def test_tf32_is_off_within_and_as_it_was_after() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    try:
        matmul.allow_tf32 = True
        with exact_products(DEVICE):  # torch refuses to read one of its two settings while they differ
            assert matmul.fp32_precision == "ieee" if hasattr(matmul, "fp32_precision") else not matmul.allow_tf32
        assert matmul.allow_tf32
    finally:
        matmul.allow_tf32 = before


def test_without_triton_torch_trains_and_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_triton() -> None:
        raise ImportError("No module named 'triton'")

    monkeypatch.setattr(cuda, "_triton", no_triton)
    cuda.available.cache_clear()
    try:
        assert not cuda.available()
        assert not cuda.available()
    finally:
        cuda.available.cache_clear()
    line = "quantal: training on CUDA in torch, several times slower: No module named 'triton'"
    assert capsys.readouterr().err.splitlines() == [line]


def plan_of(layer: SpikingLayer, network: SpikingNetwork, kind: str) -> Plan:
    with pytest.MonkeyPatch.context() as patch:
        plans = use_kernels(patch, kind)
        patch.setattr(cuda, "time_loop", lambda plan, x, *_: x)
        layer(torch.zeros(1, 1, layer.weight.shape[1], dtype=KINDS[kind]), network.ops)
    return plans[0]


@pytest.mark.parametrize(
    ("size", "kind", "limit", "refused"),
    [
        (256, "whole", A100, ""),
        (256, "whole", CONSUMER, "155648 bytes"),
        (128, "whole", CONSUMER, ""),
        (257, "whole", H100, "shared memory"),
        (128, "real", CONSUMER, ""),
        (129, "real", H100, "shared memory"),
        (20, "double", H100, "float64"),
    ],
)
def test_what_cannot_run_on_the_chip_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], size: int, kind: str, limit: int, refused: str
) -> None:
    monkeypatch.setattr(cuda, "_chip_bytes", lambda _: limit)
    monkeypatch.setattr(cuda, "_interpreted", lambda: False)
    plan = plan_of(*layer_of(0, 2, 1, size=size, recurrent=True), kind)
    cuda.fits.cache_clear()
    try:
        assert [cuda.fits(plan, DEVICE) for _ in range(2)] == [not refused] * 2
    finally:
        cuda.fits.cache_clear()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(refused)
    assert all(f"{size} recurrent neurons train in torch" in line and refused in line for line in lines)


@pytest.mark.parametrize("sizes", ["few", pytest.param("all", marks=pytest.mark.thorough)])
@pytest.mark.parametrize("capability", COMPILED)
def test_every_kind_of_kernel_compiles_and_fits_without_a_gpu(tmp_path: Path, capability: str, sizes: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | SUPPORTED
    command = [sys.executable, kernels.__file__, capability, sizes]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment | {"TRITON_CACHE_DIR": str(tmp_path)}, check=False
    )
    assert done.returncode == 0, done.stderr
    made = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(made) == 2 * len(COMPILED[capability])  # forward and backward
    assert all(taken <= expected <= CHIPS[capability] for taken, expected in made)


if DEVICE.type == "cuda":

    def test_the_interpreter_is_equal_too() -> None:
        """Where a GPU ran all of the above, this runs it all again without."""
        command = [sys.executable, "-m", "pytest", "-q", __file__, "-k", "not compiles"]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
        assert done.returncode == 0, done.stdout

"""Every executor gives, value by value, what the reference gives: torch's hard forward, or the interpreter."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from quantal.export.base import toolchain
from quantal.export.base.errors import ExecutorError
from quantal.export.base.fixed import Ints
from quantal.export.build import Build
from quantal.export.ir import interpret
from quantal.export.ir.interpret import Trace
from quantal.export.ir.network import Network
from quantal.export.ir.ops import OPS, MatVec, op_name
from quantal.export.run import EXECUTORS
from quantal.export.verify import vectors
from quantal.qat.arithmetic.neurons import NEURONS, RESETTING
from quantal.qat.network.network import SpikingNetwork
from support.layers import a_layer, replace
from support.networks import lively, write
from support.neurons import KINDS
from support.programs import RANGES, coded, random_program, table_lif, whole_word
from support.torch_networks import random_network, small_config, three_layers
from support.windows import WINDOWS, windowed

pytest.importorskip("onnxruntime")
pytest.importorskip("unicorn")
pytest.importorskip("ziglang")

Made = tuple[SpikingNetwork | Network, Ints]
INTEGER_WEIGHTS, INTEGER_STATES = range(1, 9), range(2, 17)
INTEGERS = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT32, onnx.TensorProto.INT64}


def firing(reset: str, timing: str) -> Made:
    """lif layers, feed-forward and recurrent, and a count readout, all with this reset."""
    return lively(lambda seed: three_layers(seed, neuron="count", reset=reset, timing=timing, maximum=3), range(1, 50))


def kind(name: str) -> Made:
    """Layers of neurons of a kind, and a readout that has of it what readouts do: by turns li and count."""
    hidden = KINDS[name]
    neuron = ("li", "count")[list(KINDS).index(name) % 2]
    shared = ("decay", "synapse") if neuron == "li" else ("decay", "synapse", "adaptation", "refractory")
    options = {field: hidden[field] for field in shared if field in hidden}
    return lively(lambda seed: three_layers(seed, neuron=neuron, hidden=hidden, maximum=3, **options), range(200, 250))


def stateless(spikes: int) -> Made:
    """Two layers without a memory, one and several spikes at once, normalized both ways, and a readout."""
    options = {"neuron": "step", "gain": 4.0}

    def make(seed: int) -> SpikingNetwork:
        return random_network(
            a_layer("first", 7, norm="batch", spikes=spikes, **options),
            a_layer("second", 5, norm="psp", **options),
            a_layer("out", 4, neuron="li", gain=4.0),
            channels=6, maximum=15, seed=seed,
        )  # fmt: skip

    return lively(make, range(50))


def precision(index: int) -> Made:
    """A network of the index-th state width, and whatever else is that number's turn."""
    options = {
        "weights": INTEGER_WEIGHTS[index % 8],
        "states": INTEGER_STATES[index],
        "decay_bits": 1 + index % 12,
        "pool": ("last", "max")[index % 2],
        "maximum": (1, 15, 255)[index % 3],
    }
    return lively(lambda seed: three_layers(seed, **options), range(100, 150))


def program(index: int) -> Made:
    """A random program whose input has the index-th range."""
    return lively(random_program, range(index, index + 50 * len(RANGES), len(RANGES)))


def table(bits: int, timing: str) -> Made:
    """A network whose membranes are tables of levels."""
    return lively(lambda seed: table_lif(bits, timing, seed), range(50), steps=30)


def codes(bits: int, lo: int, hi: int) -> Made:
    """A network whose weights are codes of that many bits, with levels and without."""
    return lively(lambda seed: coded((bits, bits), lo, hi, seed), range(50))


def planes(shape: str, bits: int, lo: int, hi: int) -> Made:
    """A network of convolutions, pools and delays, on planes of that shape."""
    return lively(lambda seed: windowed(shape, bits, lo, hi, seed), range(50))


TRAINED: dict[str, Callable[[], Made]] = {
    **{f"{reset}-{timing}": lambda r=reset, t=timing: firing(r, t) for reset, timing in RESETTING},  # type: ignore[misc]
    **{name: lambda name=name: kind(name) for name in KINDS},  # type: ignore[misc]
    **{f"stateless{spikes}": lambda spikes=spikes: stateless(spikes) for spikes in (1, 3)},  # type: ignore[misc]
    **{f"states{i + 2}": lambda i=i: precision(i) for i in range(15)},  # type: ignore[misc]
}
PROGRAMS: dict[str, Callable[[], Made]] = {
    **{f"program{i}": lambda i=i: program(i) for i in range(len(RANGES))},  # type: ignore[misc]
    "word": whole_word,
}
TABLES: dict[str, Callable[[], Made]] = {
    **{
        f"levels{bits}-{timing}": lambda bits=bits, timing=timing: table(bits, timing)  # type: ignore[misc]
        for bits in (2, 8)
        for timing in ("delayed", "immediate")
    },
    **{
        f"codes{bits}-{lo}to{hi}": lambda bits=bits, lo=lo, hi=hi: codes(bits, lo, hi)  # type: ignore[misc]
        for bits in (1, 2, 3, 4, 8)
        for lo, hi in ((0, 1), (-5, 3), (0, 255))
    },
}
PLANES: dict[str, Callable[[], Made]] = {
    f"{shape}-codes{bits}-{lo}to{hi}": lambda shape=shape, bits=bits, lo=lo, hi=hi: planes(shape, bits, lo, hi)  # type: ignore[misc]
    for shape, bits, (lo, hi) in zip(
        WINDOWS, (1, 4, 2, 1, 8, 2), ((0, 1), (-5, 3), (0, 255), (0, 15), (0, 1), (-1, 1)), strict=True
    )
}
CASES = TRAINED | PROGRAMS | TABLES | PLANES


@cache
def made(case: str) -> Made:
    """The case's network and input, made once."""
    return CASES[case]()


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Build]:
    """Builds a case once."""

    @cache
    def build(case: str) -> Build:
        network, x = made(case)
        return write(network, tmp_path_factory.mktemp(case) / "build", "model", x)

    return build


def assert_equal(got: Trace, reference: Trace) -> None:
    assert set(got) == set(reference)
    for name, values in reference.items():
        assert np.array_equal(got[name], values), name


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("case", CASES)
def test_an_executor_equals_the_reference(case: str, executor: str, built: Callable[[str], Build]) -> None:
    build = built(case)
    x, reference = build.vectors()
    with EXECUTORS[executor](build) as run:
        assert_equal(run(x), reference)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_samples_do_not_reach_into_each_other(executor: str, built: Callable[[str], Build]) -> None:
    build = built("subtract-delayed")
    x, reference = build.vectors()
    with EXECUTORS[executor](build) as run:
        assert_equal(run(x[::-1]), {name: values[::-1] for name, values in reference.items()})
        assert_equal(run(x[:1, :3]), {name: values[:1, :3] for name, values in reference.items()})


def test_the_cases_cover_every_neuron_option_precision_and_op() -> None:
    networks = [made(case) for case in TRAINED]
    layers = [
        layer for network, _ in networks if isinstance(network, SpikingNetwork) for layer in network.config.layers
    ]
    neurons = [layer.neuron for layer in layers]
    fired = {(row.neuron.kind, row.neuron.reset, row.neuron.timing, row.recurrent) for row in layers}
    for reset, timing in RESETTING:
        assert {
            ("lif", reset, timing, False),
            ("lif", reset, timing, True),
            ("count", reset, timing, False),
        } <= fired
    assert {neuron.kind for neuron in neurons} == set(NEURONS)
    for field in ("synapse", "adaptation", "refractory"):
        assert {"lif", "count"} <= {neuron.kind for neuron in neurons if getattr(neuron, field)}, field
    assert {"lif", "li", "count"} <= {neuron.kind for neuron in neurons if neuron.decay == 1}
    assert "li" in {neuron.kind for neuron in neurons if neuron.synapse}
    assert {neuron.pool for neuron in neurons if neuron.kind == "li"} == {"last", "max"}
    assert {layer.weights.bits for layer in layers} == set(INTEGER_WEIGHTS)
    assert {layer.states.membrane for layer in layers} == set(INTEGER_STATES)
    windows = {"CONV", "SUMPOOL"}
    for case in PROGRAMS:
        network, x = made(case)
        assert isinstance(network, Network)
        assert (int(x.min()), int(x.max())) == (network.input_lo, network.input_hi)
        if network.name == "program":
            assert all({op_name(op) for op in layer.ops} == set(OPS) - windows for layer in network.layers)
    for case in PLANES:
        network, _ = made(case)
        assert isinstance(network, Network)
        assert windows <= {op_name(op) for layer in network.layers for op in layer.ops}
        assert {state.delay for layer in network.layers for state in layer.states} == {1, 2, 3}


def test_the_whole_word_is_reached_and_the_halves_between_two_results(built: Callable[[str], Build]) -> None:
    _, trace = built("word").vectors()
    word = trace["output"]
    assert (word.min(), word.max()) == (-(2**31), 2**31 - 1)
    for s in range(1, 32):
        assert np.any((word & (2**s - 1)) == 2 ** (s - 1)), s
        assert np.any((word & (2**s - 1)) == 2 ** (s - 1) - 1), s


# ---- the compiled C, for whole test sets


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Build, Ints]:
    """700-256R-20 with 4-bit weights and 8-bit states, and an input of which 2 % spikes."""
    torch.manual_seed(0)
    hidden = a_layer("hidden", 256, recurrent=True, gain=2.8)
    layers = hidden, a_layer("readout", 20, neuron="li", pool="max")
    network = SpikingNetwork(small_config(*layers), 700, 1)
    x = (np.random.default_rng(0).random((7, 25, 700)) < 0.02).astype(np.int64)
    return write(network, tmp_path_factory.mktemp("large") / "build", "large", x[:1, :3]), x


def test_compiled_c_equals_the_interpreter_on_a_large_recurrent_network(large: tuple[Build, Ints]) -> None:
    build, x = large
    reference = interpret.run(build.network, x)
    assert all(np.ptp(values) > 0 for values in reference.values())
    assert 0.02 < reference["hidden.spike"].mean() < 0.1
    with EXECUTORS["c-host"](build) as run:
        assert_equal(run(x), reference)
        assert_equal(run(np.asfortranarray(x)), reference)
        for sample in range(len(x)):
            part = slice(sample, sample + 1)
            assert_equal(run(x[part]), {name: values[part] for name, values in reference.items()})


def test_compiled_c_needs_no_flags_for_speed(
    built: Callable[[str], Build], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "cc"
    compile_command = shlex.join(toolchain.host_compiler())
    refuse = 'case "$*" in *-march=*) echo "error: -march" >&2; exit 1;; esac'
    compiler.write_text(f'#!/bin/sh\n{refuse}\nexec {compile_command} "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setattr(toolchain, "host_compiler", lambda seconds=None: [str(compiler)])
    build = built("program0")
    x, reference = build.vectors()
    with EXECUTORS["c-host"](build) as run:
        assert_equal(run(x), reference)


def test_a_crash_of_the_compiled_c_is_an_error_of_the_executor(built: Callable[[str], Build], tmp_path: Path) -> None:
    good = built("program0")
    build = replace(good, path=shutil.copytree(good.path, tmp_path / "build"))
    text = build.test_program.read_text()
    build.test_program.write_text(text.replace("        long t;\n", "        long t;\n        abort();\n", 1))
    x, _ = build.vectors()
    with EXECUTORS["c-host"](build) as run, pytest.raises(ExecutorError, match=r"exit code -\d+, 0 bytes written"):
        run(x)


# ---- the simulator, as others get it


NUMPY_ALONE = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in sys.stdlib_module_names | {"numpy"}:
            raise ImportError(f"{name} is not numpy")
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_simulator(build: Build, path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-c", NUMPY_ALONE, str(build.simulator), str(path)]
    return subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("case", ["subtract-delayed", "program0"])
def test_the_simulator_is_a_program_that_needs_numpy_alone(case: str, built: Callable[[str], Build]) -> None:
    build = built(case)
    done = run_simulator(build, build.path / "vectors.npz")
    _, trace = build.vectors()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{sum(v.size for v in trace.values())} values compared, 0 mismatches\n"


@pytest.mark.parametrize("record", ["first.u", "second.spike", "output"])
def test_the_simulator_fails_on_vectors_that_are_not_its_own(
    record: str, built: Callable[[str], Build], tmp_path: Path
) -> None:
    build = built("subtract-delayed")
    x, trace = build.vectors()
    changed = {name: values.copy() for name, values in trace.items()}
    changed[record][-1, -1, -1] += 1
    (tmp_path / "vectors.npz").write_bytes(vectors.dumps(x, changed))
    done = run_simulator(build, tmp_path / "vectors.npz")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.endswith(" values compared, 1 mismatches\n")


def test_the_simulator_refuses_inputs_outside_what_was_proven(built: Callable[[str], Build]) -> None:
    build = built("program3")
    x, _ = build.vectors()
    module: dict[str, object] = {"__name__": "simulator"}
    exec(build.simulator.read_text(encoding="utf-8"), module)
    run, classify = module["run"], module["classify"]
    assert callable(run)
    assert callable(classify)
    for wrong in (x[0], x[:, :, 1:], np.where(x == x.max(), x.max() + 1, x), np.where(x == x.min(), x.min() - 1, x)):
        with pytest.raises(ValueError, match="expected integers"):
            run(wrong)
    trace = run(x)
    assert np.array_equal(classify(trace["output"]), interpret.classify(trace["output"]))


# ---- the ONNX model


@pytest.mark.parametrize("case", ["zero-immediate", "states8", "program0", "program4", "program5", "word"])
def test_the_onnx_model_is_one_step_of_standard_integer_operators(case: str, built: Callable[[str], Build]) -> None:
    build = built(case)
    model = onnx.load(build.onnx)
    onnx.checker.check_model(model, full_check=True)
    assert [opset.domain for opset in model.opset_import] == [""]
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    layers = build.network.layers
    states = [f"{layer.name}.{state.name}" for layer in layers for state in layer.states]
    assert [value.name for value in model.graph.input] == ["input", *states]
    assert {value.name for value in model.graph.output} == {f"{name}.next" for name in records(build)} | {"output"}
    assert {f"{name}.next" for name in states} <= {value.name for value in model.graph.output}
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}
    assert {name for node in model.graph.node for name in node.output} <= set(types)
    assert set(types.values()) <= INTEGERS | {onnx.TensorProto.BOOL}
    assert {constant.data_type for constant in model.graph.initializer} <= INTEGERS


def records(build: Build) -> list[str]:
    return [name for layer in build.network.layers for name, _ in layer.records()]


@pytest.mark.parametrize("case", ["states8", "states9", "states16", "program2", "program3", "codes4-0to255"])
def test_onnx_adds_no_two_products_that_leave_16_bits_in_8_bit_arithmetic(
    case: str, built: Callable[[str], Build]
) -> None:
    """Without VNNI, x86 runtimes add neighbouring 8-bit products in saturating 16-bit words."""
    build = built(case)
    nodes = [n.op_type for n in onnx.load(build.onnx).graph.node if n.op_type.startswith("MatMul")]
    narrow = []
    for layer, intervals in build.proven.layers:
        for op in layer.ops:
            if isinstance(op, MatVec):
                lo, hi = intervals[op.x].hull
                weights = layer.matrix(op)
                fits = lo >= 0 and weights.min() >= -128 and weights.max() <= 127
                narrow.append(fits and 2 * hi * np.abs(weights).max() < 2**15)
    assert nodes == ["MatMulInteger" if fits else "MatMul" for fits in narrow]

"""`cost` is counted, not estimated: equal on every run, and each figure is what a compiler or another count says."""

import json
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from quantal.export.base.fixed import Ints
from quantal.export.base.toolchain import CORES, compile_host
from quantal.export.build import Build
from quantal.export.ir.ops import Table
from quantal.export.report.cost import Cost, measure
from quantal.qat.network.network import SpikingNetwork
from support.commands import Done, quantal
from support.layers import a_layer, replace
from support.networks import lively, write
from support.programs import random_program
from support.torch_networks import random_network

pytest.importorskip("elftools")
pytest.importorskip("unicorn")
pytest.importorskip("ziglang")

BUILDS = ("trained", "readout", "program")
COUNTS = ("flash_tables", "flash_code", "ram_state", "ram_stack", "instructions_worst", "steps", "flash", "ram")


def trained(seed: int) -> SpikingNetwork:
    """Large enough for a compiler to keep its tables as tables. Without biases: no spike comes from nothing."""
    return random_network(
        a_layer("hidden", 24, recurrent=True, bias=False, gain=4.0),
        a_layer("readout", 10, neuron="li", bias=False),
        channels=32,
        maximum=1,
        seed=seed,
    )


def readout(seed: int) -> SpikingNetwork:
    """One layer that never fires: all its events are its input's."""
    return random_network(a_layer("readout", 12, neuron="li", weights=8), channels=32, maximum=1, seed=seed)


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Build]:
    """Builds of that name, made once."""

    @cache
    def build(name: str) -> Build:
        make = {"trained": trained, "readout": readout, "program": random_program}[name]
        network, x = lively(make, range(4, 500, 8), 5, 6)
        return write(network, tmp_path_factory.mktemp(name) / "build", name, x)

    return build


def cost_of(build: Build, core: str, x: Ints) -> Cost:
    return measure(build, core, x, lambda _: None)


@pytest.fixture(scope="session")
def costs(builds: Callable[[str], Build]) -> Callable[[str, str], Cost]:
    """The cost of a build on a core, over its vectors, counted once."""
    return cache(lambda name, core: cost_of(builds(name), core, builds(name).vectors()[0]))


def smallest(values: tuple[int, ...]) -> int:
    """The bytes of an array in the smallest words that hold it."""
    lo, hi = min(values), max(values)
    return len(values) * np.min_scalar_type(min(lo, ~hi) if lo < 0 else hi).itemsize


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", ["trained", "readout"])
def test_flash_tables_hold_every_weight_in_its_bits_and_the_networks_other_constants(
    name: str, core: str, builds: Callable[[str], Build], costs: Callable[[str, str], Cost]
) -> None:
    layers = builds(name).network.layers
    bits = {"trained": 4, "readout": 8}[name]
    matrices = [codes for layer in layers for codes in layer.weights.values()]
    weights = sum(inputs * -(-neurons * bits // 8) for neurons, inputs in (codes.shape for codes in matrices))
    tables = [op.values for layer in layers for op in layer.ops if isinstance(op, Table) and len(op.values) > 1]
    assert weights <= costs(name, core).flash_tables <= weights + sum(map(smallest, tables))


@pytest.mark.parametrize("name", BUILDS)
def test_the_states_ram_is_its_size_in_c(
    name: str, builds: Callable[[str], Build], costs: Callable[[str, str], Cost], tmp_path: Path
) -> None:
    main = f'int main(void) {{ printf("%d", (int)sizeof({name}_state)); return 0; }}'
    text = f'#include <stdio.h>\n#include "{name}.h"\n{main}\n'
    (tmp_path / "size.c").write_text(text)
    compile_host([tmp_path / "size.c"], tmp_path / "size", flags=[f"-I{builds(name).path}"])
    size = int(subprocess.run([tmp_path / "size"], capture_output=True, check=True).stdout)
    assert {core: costs(name, core).ram_state for core in CORES} == dict.fromkeys(CORES, size)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", BUILDS)
def test_every_step_is_counted_and_no_count_depends_on_the_sample_before(
    name: str, core: str, builds: Callable[[str], Build], costs: Callable[[str, str], Cost]
) -> None:
    x, _ = builds(name).vectors()
    whole, first, rest = costs(name, core), cost_of(builds(name), core, x[:1]), cost_of(builds(name), core, x[1:])
    assert (whole.steps, first.steps, rest.steps) == (30, 6, 24)
    assert round(whole.instructions_mean * 30) == round(first.instructions_mean * 6) + round(
        rest.instructions_mean * 24
    )
    assert whole.instructions_worst == max(first.instructions_worst, rest.instructions_worst)
    assert whole.ram_stack == max(first.ram_stack, rest.ram_stack)
    assert 0 < whole.instructions_mean <= whole.instructions_worst
    assert whole.ram_stack % 4 == 0


@pytest.mark.parametrize("core", CORES)
def test_every_further_event_costs_further_instructions(core: str, builds: Callable[[str], Build]) -> None:
    events = np.tri(33, 32, -1, dtype=np.int64)  # step k has k spikes
    counts = [cost_of(builds("readout"), core, row.reshape(1, 1, -1)).instructions_worst for row in events[::8]]
    assert all(np.diff(counts) > 0)
    together = cost_of(builds("readout"), core, events[::8, None])
    assert together.instructions_worst == counts[-1]
    assert together.instructions_mean == sum(counts) / len(counts)


@pytest.mark.parametrize("core", CORES)
def test_silence_is_cheapest(core: str, builds: Callable[[str], Build], costs: Callable[[str, str], Cost]) -> None:
    x, trace = builds("trained").vectors()
    silence = cost_of(builds("trained"), core, np.zeros_like(x[:1]))
    assert trace["hidden.spike"].sum() > 0
    assert silence.instructions_mean == silence.instructions_worst
    assert silence.instructions_worst < costs("trained", core).instructions_mean


# ---- the command


def test_json_is_equal_on_every_run_and_holds_these_figures(
    builds: Callable[[str], Build], costs: Callable[[str, str], Cost]
) -> None:
    first, second = (quantal("cost", builds("trained").path, "--json") for _ in range(2))
    assert first == second == Done(0, first.out, "")
    rows = json.loads(first.out)
    assert [row["core"] for row in rows] == list(CORES)
    for row in rows:
        expected = costs("trained", row["core"])
        assert set(row) == {"core", "instructions_mean", *COUNTS}
        assert [type(row[key]) for key in COUNTS] == [int] * len(COUNTS)
        assert row["flash"] == row["flash_tables"] + row["flash_code"]
        assert row["ram"] == row["ram_state"] + row["ram_stack"]
        assert {key: value for key, value in row.items() if key not in ("flash", "ram")} == vars(expected)


def test_the_table_shows_the_same_figures(builds: Callable[[str], Build], costs: Callable[[str, str], Cost]) -> None:
    done = quantal("cost", builds("program").path, "--core", "riscv32")
    cost = costs("program", "riscv32")
    numbers = (cost.flash_tables, cost.flash_code, cost.ram_state, cost.ram_stack, round(cost.instructions_mean))
    row = done.out.splitlines()[1].split()
    assert (done.code, done.err) == (0, "")
    assert row == ["riscv32", *(f"{n:,}" for n in (*numbers, cost.instructions_worst))]


def test_an_unknown_core_is_refused(builds: Callable[[str], Build]) -> None:
    done = quantal("cost", builds("program").path, "--core", "cortex-m9")
    line = f"quantal: --core: expected one of {', '.join(CORES)}, got 'cortex-m9'\n"
    assert done == Done(2, "", line)


def test_a_build_that_was_changed_has_no_cost(builds: Callable[[str], Build], tmp_path: Path) -> None:
    build = replace(builds("program"), path=shutil.copytree(builds("program").path, tmp_path / "build"))
    build.header.write_text(build.header.read_text() + "\n")
    done = quantal("cost", build.path)
    line = f"quantal: {build.header}: changed since the export (MANIFEST.json has another sha256)\n"
    assert done == Done(2, "", line)

"""Golden vectors: what the hard torch forward did, sample by sample, and the comparison of a run with them.

The file is a plain .npz: "input" (samples, steps, inputs), each record of the network (samples, steps, neurons) under
its name, e.g. "hidden.u", and "output".
"""

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from quantal.export.base import reading
from quantal.export.base.errors import BadInput, ExecutorError, listed, shown
from quantal.export.base.fixed import Ints
from quantal.export.ir.interpret import Trace
from quantal.export.ir.network import Network


def record_sizes(network: Network) -> dict[str, int]:
    """The names of all that is compared after a step, in order, with their numbers of neurons."""
    sizes = {name: layer.size for layer in network.layers for name, _ in layer.records()}
    return sizes | {"output": network.outputs}


def dumps(x: Ints, trace: Trace) -> bytes:
    """The vectors as a file, in the smallest integer types that hold them. Its bytes depend on the values alone."""
    arrays = {"input": x} | trace
    memory = io.BytesIO()
    np.savez(memory, **{name: _smallest(values) for name, values in arrays.items()})  # type: ignore[arg-type]
    return memory.getvalue()


def _smallest(values: Ints) -> np.ndarray:
    lo, hi = (int(values.min()), int(values.max())) if values.size else (0, 0)
    return values.astype(np.promote_types(np.min_scalar_type(lo), np.min_scalar_type(hi)), order="C")


def load(path: Path, network: Network) -> tuple[Ints, Trace]:
    """The input and the trace stored in `path`. Raises BadInput unless they are vectors of this network."""
    stored = reading.npz(path)
    sizes = {"input": network.inputs} | record_sizes(network)
    if set(stored) != set(sizes):
        odd = sorted(set(stored) ^ set(sizes))[0]
        raise BadInput(f"{path}: {shown(odd)}: expected exactly the arrays {listed(sizes)}")
    count = stored["input"].shape[:2]
    for name, size in sizes.items():
        values = stored[name]
        if values.dtype.kind not in "iu" or values.shape != (*count, size) or 0 in values.shape:
            raise BadInput(
                f"{path}: {name}: expected integers of shape (samples, steps, {size}) with at least one sample, "
                f"got {values.dtype} {shown(values.shape)}"
            )
    taken = sum(array.nbytes for array in stored.values()) + 8 * stored["input"].size
    reading.check_memory(taken, path, f"{shown(count)} samples and steps")
    arrays = {name: array.read() for name, array in stored.items()}
    check_input(network, arrays["input"], str(path))
    return arrays["input"].astype(np.int64), {name: arrays[name] for name in record_sizes(network)}


def check_input(network: Network, x: Ints, where: str) -> None:
    """Raises BadInput unless every input lies in the interval that the network was proven for."""
    lo, hi = int(x.min()), int(x.max())
    if lo < network.input_lo or hi > network.input_hi:
        raise BadInput(
            f"{where}: input: values in [{lo}, {hi}], "
            f"the network was proven for [{network.input_lo}, {network.input_hi}]"
        )


@dataclass(frozen=True)
class Mismatch:
    """The first place where a run leaves the reference: `record` is the layer's state or output.

    values: what network.json gives there to each value that has a label, the neuron's own.
    """

    sample: int
    step: int
    layer: str
    neuron: int
    expected: int
    got: int
    record: str
    values: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        place = f"sample {self.sample}, step {self.step}, layer {self.layer}, {self.record} of neuron {self.neuron}"
        values = ", ".join(f"{label} {value}" for label, value in self.values.items())
        there = f"; by network.json there: {values}" if values else ""
        return f"{place}: expected {self.expected}, got {self.got}{there}"


@dataclass
class Comparison:
    """The running total of one executor's comparison with the reference."""

    executor: str
    samples: int = 0
    steps: int = 0
    values: int = 0
    mismatches: int = 0
    first: Mismatch | None = None

    def as_json(self) -> dict[str, object]:
        """The row of `verify --json`."""
        row = asdict(self)
        if self.first is not None and not self.first.values:
            del row["first"]["values"]
        return row

    @property
    def good(self) -> bool:
        """True where something was compared and all of it was equal."""
        return self.values > 0 and self.mismatches == 0

    def add(self, expected: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> None:
        """Compares one batch, each array (samples, steps, neurons), record by record in the network's order.

        Raises ExecutorError where `got` lacks a record, or holds something other than integers of that shape.
        """
        samples, steps, _ = next(iter(expected.values())).shape
        self._compare(expected, got, self.samples)
        self.samples += samples
        self.steps += samples * steps

    def add_answers(self, expected: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> None:
        """Compares what functions answer, each (cases, steps, values), as `add` does; cases are no samples."""
        self._compare(expected, got, 0)

    def _compare(self, expected: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray], before: int) -> None:
        places = []
        for order, (name, want) in enumerate(expected.items()):
            have = got.get(name, np.empty(0))
            if have.shape != want.shape or have.dtype.kind not in "iub":
                raise ExecutorError(f"{name}: expected integers {want.shape}, got {have.dtype} {have.shape}")
            self.values += want.size
            different = np.argwhere(want != have)
            self.mismatches += len(different)
            if len(different):
                sample, step, neuron = map(int, different[0])
                values = int(want[sample, step, neuron]), int(have[sample, step, neuron])
                layer, _, record = name.rpartition(".")
                mismatch = Mismatch(before + sample, step, layer or "output", neuron, *values, record)
                places.append(((sample, step, order), mismatch))
        if places and self.first is None:
            self.first = min(places, key=lambda place: place[0])[1]

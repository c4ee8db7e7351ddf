"""What every executor gives: a way to run samples, and a way to ask the functions that a user may call."""

from collections.abc import Callable
from dataclasses import dataclass

from quantal.export.base.fixed import Ints
from quantal.export.ir.interpret import Trace
from quantal.export.verify.probes import Probe


@dataclass(frozen=True)
class Runner:
    """A build on an executor.

    run: inputs (samples, steps, inputs) → the trace of every record and "output", each (samples, steps, neurons).
    ask: → (what the functions must answer, what they do), None where there are none beside the run itself.
    """

    run: Callable[[Ints], Trace]
    ask: Callable[[Probe], tuple[Trace, Trace]] | None = None

    def __call__(self, x: Ints) -> Trace:
        return self.run(x)

"""Triton's kernels in a layer's place, and the sizes at which they are compiled without a GPU."""

import json
import os
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from quantal.qat.engine import cuda
from quantal.qat.engine.adjoint import Plan
from quantal.qat.network import fused
from support.engines import layer_of

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

if DEVICE.type == "cpu" and __name__ != "__main__":
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
A100, CONSUMER, H100 = 163 * 1024, 99 * 1024, 227 * 1024  # shared memory of a program, bytes
KINDS = {"whole": torch.float32, "real": torch.float32, "double": torch.float64}


def use_kernels(monkeypatch: pytest.MonkeyPatch, kind: str) -> list[Plan]:
    """Has layers run the kernels, with weights known to be codes or not; the plans of those that do."""
    plans: list[Plan] = []

    def time_loop(plan: Plan, *given: Any) -> Tensor:
        plans.append(replace(plan, whole_codes=kind == "whole"))
        return cuda.time_loop(plans[-1], *given)

    kernels = SimpleNamespace(available=lambda: True, fits=lambda *_: True, time_loop=time_loop)
    for name in ("cpu", "cuda"):
        monkeypatch.setattr(fused, name, kernels)
    return plans


CHIPS = {"80": A100, "89": CONSUMER, "90": H100}  # by compute capability
COMPILED: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "80": [
        ("whole", {"size": 256, "recurrent": True, "states": 16}),
        ("whole", {"size": 256, "recurrent": True, "state_quantizer": "aligned"}),
        ("whole", {"size": 10, "neuron": "li", "state_quantizer": "aligned", "states": 2}),
    ],
    "89": [
        ("whole", {"size": 100, "recurrent": True}),
        ("real", {"size": 128, "recurrent": True, "weights": "float"}),
        ("whole", {"size": 100, "state_quantizer": "squat", "states": 2, "state_gradient": "identity"}),
        ("whole", {"size": 128, "recurrent": True, "state_quantizer": "dq", "states": 2}),
        ("whole", {"size": 128, "recurrent": True, "spikes": 15, "timing": "immediate"}),
    ],
    "90": [
        ("whole", {"size": 256, "recurrent": True, "bias": True, "threshold_per": "neuron"}),
        ("whole", {"size": 5, "recurrent": True, "reset": "zero", "timing": "immediate"}),
        ("real", {"size": 128, "recurrent": True, "weights": "float", "states": "float"}),
        ("double", {"size": 20, "neuron": "count"}),
        ("double", {"size": 20, "neuron": "count", "state_quantizer": "dq"}),
        ("whole", {"size": 256, "recurrent": True, "state_quantizer": "dq"}),
        ("whole", {"size": 100, "state_quantizer": "squat", "state_gradient": "identity"}),
        ("whole", {"size": 100}),
        ("whole", {"size": 10, "neuron": "li", "pool": "max", "weights": "float", "states": "float"}),
    ],
}


FEW = 32  # neurons, which a program has at least: more of them take several times longer to compile


def to_compile(capability: str, sizes: str) -> list[tuple[str, dict[str, Any]]]:
    """COMPILED for that capability, all at their sizes, or "few": but the first with a few neurons."""
    first, *others = COMPILED[capability]
    if sizes == "all":
        return [first, *others]
    return [first, *((kind, options | {"size": min(FEW, options["size"])}) for kind, options in others)]


def compile_kernels(capability: str, sizes: str) -> None:
    """Compiles what `to_compile` names; prints the shared memory taken, and that expected."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    class Driver:
        """Stands for a GPU's, as far as compiling asks for it."""

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", int(capability), 32)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int) -> int:
            return 0

    made = []
    run = JITFunction.run

    def compile_only(self: Any, *given: Any, **options: Any) -> Any:
        made.append(run(self, *given, **options | {"warmup": True}))

    driver.set_active(Driver())
    chip = CHIPS[capability]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JITFunction, "run", compile_only)
        patch.setattr(cuda, "_chip_bytes", lambda _: chip)
        for kind, options in to_compile(capability, sizes):
            plans = use_kernels(patch, kind)
            layer, network = layer_of(3, 6, 1, **options)
            x = torch.ones(3, 32, 6, dtype=KINDS[kind], requires_grad=True)
            layer(x, network.ops).sum().backward()
            for one in made:
                assert one.asm["cubin"]
                stages = 2 if cuda.shared_bytes(plans[0], 2) <= chip else 1
                print(json.dumps([one.metadata.shared, cuda.shared_bytes(plans[0], stages) or chip]))
            made.clear()


if __name__ == "__main__":
    compile_kernels(*sys.argv[1:])

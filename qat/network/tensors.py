"""What a network takes of a file: read, and refused where it cannot be that network's."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from quantal.export.base.errors import BadInput, named, shown
from quantal.export.base.reading import damaged
from quantal.qat.network.parameters import Parameters
from quantal.qat.quantizers.weights import Learned


def read_tensors(path: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in `path`, which must have the names, shapes and types of `expected` and be finite."""
    with damaged(path, "an intact safetensors file"):
        found = load_file(path)
    if set(found) != set(expected):
        odd = sorted(set(found) ^ set(expected))[0]
        raise BadInput(f"{path}: {named(odd)}: {'not a tensor of this network' if odd in found else 'missing'}")
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape or found[name].dtype != tensor.dtype:
            raise BadInput(
                f"{path}: {name}: expected {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}, "
                f"got {str(found[name].dtype).removeprefix('torch.')} {shown(tuple(found[name].shape))}"
            )
        if not bool(torch.isfinite(found[name]).all()):
            raise BadInput(f"{path}: {name}: holds NaN or infinity")
    return found


def check_layer(layer: Parameters, place: str) -> None:
    """Raises BadInput, from `place`, unless scales and thresholds are positive and shifts are shifts."""
    if not bool((layer.unit_start * layer.unit_gain > 0).all()):
        raise BadInput(f"{place}: scale: expected positive numbers")
    if layer.threshold is not None and not bool((layer.threshold > 0).all()):
        raise BadInput(f"{place}: threshold: expected positive numbers")
    for name, tensor in layer.state_dict().items():
        if name.endswith(("reach_start", "reach_gain", "reach")) and not bool((tensor > 0).all()):
            raise BadInput(f"{place}: {name}: expected positive numbers")
        if name == "reach" and not bool((tensor == tensor.round()).all()):
            raise BadInput(f"{place}: {name}: expected an integer")
        if name in ("norm.variance", "psp.moment") and bool((tensor < 0).any()):
            raise BadInput(f"{place}: {name}: expected no negative number")
        if name == "quantizer.borders" and not bool((tensor.diff() > 0).all()):
            raise BadInput(f"{place}: {name}: expected ascending numbers")
        if name == "quantizer.width" and int(tensor) not in Learned.widths:
            raise BadInput(f"{place}: {name}: expected one of {Learned.widths}, got {int(tensor)}")
    shifts = [*layer.shifts.tolist(), int(layer.added_shift)]
    if min(shifts) < 0 or max(shifts) > 31:
        raise BadInput(f"{place}: shifts: expected 0 to 31")

"""Whose is which axis of a layer's tensors: read by all that takes neurons out or puts them in another order.

A new tensor of a layer gets a row here. See SpikingLayer for what the tensors are.
"""

from collections.abc import Mapping

from torch import Tensor

OWN = "own"
"""One entry for each of its own rows, which are its neurons, or the channels of a convolution; or one for all."""

SEEN = "seen"
"""One entry for each value that a row sees, in the order of its connections; of a window, each channel's in turn."""

BACK = "back"
"""One entry for each of its own neurons, whose spikes come back; or one, where each sees its own alone."""

NOBODY = "nobody"
"""Entries that belong to no neuron."""

AXES: dict[str, tuple[str, ...]] = {
    "weight": (OWN, SEEN),
    "recurrent": (OWN, BACK),
    **dict.fromkeys(("bias", "threshold", "adaptation", "decay", "synapse_decay", "adaptation_decay"), (OWN,)),
    **dict.fromkeys(("unit_start", "unit_gain", "quantizer.reach_start", "quantizer.reach_gain"), (OWN, NOBODY)),
    **dict.fromkeys(("norm.gain", "norm.mean", "norm.variance"), (OWN,)),
    **dict.fromkeys(("psp.gain", "psp.moment"), (SEEN,)),
    **dict.fromkeys(("shifts", "reach", "ranges", "quantizer.borders"), (NOBODY,)),
    **dict.fromkeys(("added_shift", "quantizer.width"), ()),
}
"""By a tensor's name in the layer. One without dimensions is one for all, whatever stands here."""


def taken(name: str, tensor: Tensor, entries: Mapping[str, Tensor]) -> Tensor:
    """The tensor with these entries of each axis that is OWN, SEEN or BACK: their numbers, in their new order.

    An axis of length 1 is one for all and stays as it is.
    """
    for axis, whose in enumerate(AXES[name][: tensor.ndim]):
        if whose in entries and tensor.shape[axis] > 1:
            tensor = tensor.index_select(axis, entries[whose])
    return tensor

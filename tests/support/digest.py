"""One number for the integers of a network of every quantizer."""

import hashlib

import numpy as np
import torch

from quantal.export.ir.network import Network
from quantal.qat.config.parts.network import Config, Direct, Task
from quantal.qat.config.parts.training import Bptt
from quantal.qat.lower import record
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.quantizers.states import STATE_QUANTIZERS
from support.layers import a_layer


def digest_of_networks() -> str:
    """Of the integers that networks of every quantizer come to."""
    found = hashlib.sha256()
    for options in (
        *({"state_quantizer": name, "states": bits} for name in STATE_QUANTIZERS for bits in (3, 8)),
        *({"weight_quantizer": name, "weights": 2} for name in ("lsq", "maqd", "dq", "dq-kmeans", "dq-power")),
        {"standardize": True, "weights": 8}, {"norm": "batch"}, {"norm": "layer-batch"}, {"norm": "psp"},
        {"synapse": "exponential", "adaptation": 0.4},
    ):  # fmt: skip
        made_ = SpikingNetwork(
            Config(
                task=Task(name="digits"), encoder=Direct(),
                layers=(a_layer("hidden", 300, recurrent=True, **options), a_layer("o", 9, neuron="li")),  # type: ignore[arg-type]
                training=Bptt(),
            ), 301, 7,
        )  # fmt: skip
        with torch.no_grad():
            for number, parameter in enumerate(made_.state_dict().values()):
                if parameter.is_floating_point() and parameter.numel() > 1:
                    noise = np.random.default_rng(number).uniform(0.9, 1.1, parameter.shape)
                    parameter.mul_(torch.as_tensor(noise, dtype=parameter.dtype))
        found.update(_bytes(record(made_, "n")))
    return found.hexdigest()


def _bytes(network: Network) -> bytes:
    return b"".join(
        repr((layer.ops, layer.states)).encode() + b"".join(codes.tobytes() for codes in layer.weights.values())
        for layer in network.layers
    )

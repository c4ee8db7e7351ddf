"""The checkpoint of a run: parameters, optimizer and epoch, as one safetensors file."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from quantal.export.base import reading
from quantal.export.base.errors import BadInput, shown
from quantal.qat.arithmetic.exact import FLOAT32, INT64
from quantal.qat.config.parts.layers import Dense, Reservoir
from quantal.qat.config.parts.network import Config
from quantal.qat.data.encoding import LIMIT, encoded_channels
from quantal.qat.network.network import SpikingNetwork
from quantal.qat.network.tensors import read_tensors

CONFIG_FILE, CHECKPOINT_FILE = "network.toml", "checkpoint.safetensors"


def to_bytes(network: SpikingNetwork, optimizer: torch.optim.Optimizer, epochs_done: int) -> bytes:
    """All that changes with an epoch."""
    tensors = _tensors(network, optimizer, epochs_done)
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def restore(path: Path, network: SpikingNetwork, optimizer: torch.optim.Optimizer) -> int:
    """Gives the network and its optimizer what the file holds. Returns how many epochs are done."""
    tensors = read_tensors(path, _tensors(network, optimizer, 0))
    for name, tensor in tensors.items():
        if name.endswith(("epochs_done", ".step", ".exp_avg_sq")) and bool((tensor < 0).any()):
            raise BadInput(f"{path}: {name}: expected no negative numbers")
    epochs_done = int(tensors["epochs_done"])
    network.restore(
        {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}, path
    )
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and epochs_done:
            optimizer.state[parameter] = {
                # A copy: a file that is mapped into memory cannot be replaced on Windows.
                key: tensors[f"adam.{name}.{key}"].to("cpu" if key == "step" else parameter.device, copy=True)
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
    return epochs_done


def _tensors(network: SpikingNetwork, optimizer: torch.optim.Optimizer, epochs_done: int) -> dict[str, Tensor]:
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        state = optimizer.state.get(parameter, {})
        for key in ("exp_avg", "exp_avg_sq"):
            tensors[f"adam.{name}.{key}"] = state.get(key, torch.zeros_like(parameter.detach()))
        tensors[f"adam.{name}.step"] = state.get("step", torch.zeros((), **FLOAT32))
    numbers = {"epochs_done": epochs_done, "channels": network.channels, "maximum": network.maximum}
    return tensors | {name: torch.tensor(value, **INT64) for name, value in numbers.items()}


def channels_and_maximum(path: Path, config: Config) -> tuple[int, int]:
    """The network's channels and maximum: what has to be known to build it and to read the rest.

    A dense layer's weights on the input alone say how many channels there are, and so bound the memory that the network
    takes; windows have their shapes in the configuration.
    """
    places = [
        i
        for i, (layer, sources) in enumerate(zip(config.layers, config.sources, strict=True))
        if sources == ("input",) and isinstance(layer, Dense | Reservoir)
    ]
    with reading.opened(path):
        pass  # it is a file that can be read; safetensors opens it by its name
    with reading.damaged(path, "an intact checkpoint"), safe_open(path, "pt") as file:
        numbers = {name: file.get_tensor(name) for name in ("channels", "maximum")}
        shapes = {i: file.get_slice(f"network.layers.{i}.weight").get_shape() for i in places}
    for name, number in numbers.items():
        if number.shape or number.dtype != torch.int64 or not 1 <= number <= LIMIT:
            raise BadInput(f"{path}: {name}: expected an integer 1..{LIMIT}")
    channels, maximum = (int(number) for number in numbers.values())
    inputs = encoded_channels(config.encoder.kind, channels)
    for i, shape in shapes.items():
        expected = config.layers[i].size, inputs * len(config.layers[i].delays)
        if tuple(shape) != expected:
            raise BadInput(f"{path}: network.layers.{i}.weight: expected {expected}, got {shown(tuple(shape))}")
    weights, size = sum(config.weight_counts(inputs).values()), path.stat().st_size
    if 4 * weights > size:
        raise BadInput(f"{path}: holds {size:,} bytes, the {weights:,} weights of {CONFIG_FILE} have more")
    if "input" in {name for sources in config.sources for name in sources} and not places:
        bound = [layer.window.size for layer in config.layers if layer.window is not None]
        if inputs > max(bound, default=0):
            raise BadInput(f"{path}: channels: expected at most {max(bound, default=0)}, which a window sees")
    return channels, maximum

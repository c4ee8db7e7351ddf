"""A network in training: a graph of layers, and the hard forward in torch."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from quantal.export.base.errors import BadInput
from quantal.qat.arithmetic import planes
from quantal.qat.arithmetic.exact import FLOAT32, FLOAT64
from quantal.qat.arithmetic.surrogates import Surrogate
from quantal.qat.arithmetic.torch_ops import TorchOps
from quantal.qat.config.graph import check_size
from quantal.qat.config.parts import layers
from quantal.qat.config.parts.layers import Layer
from quantal.qat.config.parts.network import Config
from quantal.qat.config.parts.training import MOST_SHARP, Ridge, Training
from quantal.qat.data.encoding import encoded_channels, encoded_maximum
from quantal.qat.network.flow import Flow
from quantal.qat.network.inputs import check_input
from quantal.qat.network.layer import SpikingLayer
from quantal.qat.network.pool import Pool
from quantal.qat.network.reservoir import draw
from quantal.qat.network.tensors import check_layer

LOGIT_RANGE = 12.0
TARGET_MARGIN = 1.25


def _surrogate(training: Training) -> Surrogate:
    """What a spike's derivative is taken to be; ridge takes none."""
    if isinstance(training, Ridge):
        return Surrogate()
    return Surrogate(training.surrogate, training.slope, training.damping)


class SpikingNetwork(nn.Module):
    """The layers of `config`, for data of `channels` channels with values 0 … `maximum`, encoded as it says.

    `inputs` integers of at most `input_maximum` reach the first layer at each step. Equal seeds, equal networks.
    """

    target_mean: Tensor
    target_reach: Tensor

    def __init__(self, config: Config, channels: int, maximum: int):
        super().__init__()
        self.config, self.channels, self.maximum = config, channels, maximum
        generator = torch.Generator().manual_seed(config.training.seed)
        self._connections = {
            layer.name: [(source, delay) for source in sources for delay in layer.delays]
            for layer, sources in zip(config.layers, config.sources, strict=True)
        }
        self.layers = nn.ModuleList()
        self.inputs = encoded_channels(config.encoder.kind, channels)
        self.input_maximum = encoded_maximum(config.encoder.kind, maximum)
        check_size(config, self.inputs, "network")
        sizes, most = {"input": self.inputs}, {"input": float(self.input_maximum)}
        for layer, sources in zip(config.layers, config.sources, strict=True):
            scale: float | Tensor = most[sources[0]]
            if len(sources) > 1:
                parts = [torch.full((sizes[name] * len(layer.delays),), most[name], **FLOAT32) for name in sources]
                scale = torch.cat(parts)
            seen = sum(sizes[name] for name in sources) * len(layer.delays)
            if isinstance(layer, layers.Pool):
                self.layers.append(Pool(layer, seen))
                most[layer.name] = most[sources[0]] * layer.kernel[0] * layer.kernel[1]
            else:
                added = next((one for one in self.stack if one.config.name == layer.add), None)
                self.layers.append(SpikingLayer(seen, layer, scale, generator, added))
                if isinstance(layer, layers.Reservoir):
                    draw(self.stack[-1], most[sources[0]], generator)
                most[layer.name] = 1.0
            sizes[layer.name] = layer.size
        if config.training.loss == "regression":  # see choose_targets
            outputs = config.layers[-1].size
            self.register_buffer("target_mean", torch.zeros(outputs, **FLOAT64))
            self.register_buffer("target_reach", torch.ones(outputs, **FLOAT64))
        for one in self.stack:
            one.truncate = config.training.truncate
        self.ops = TorchOps(_surrogate(config.training))
        self.eval()  # deployed, unless a training step says otherwise

    @property
    def nodes(self) -> "list[SpikingLayer | Pool]":
        """All layers, in order."""
        return [layer for layer in self.layers if isinstance(layer, SpikingLayer | Pool)]

    @property
    def stack(self) -> list[SpikingLayer]:
        """The layers with weights, in order."""
        return [layer for layer in self.layers if isinstance(layer, SpikingLayer)]

    def forward(
        self,
        x: Tensor,
        record: dict[str, Tensor] | None = None,
        sent: list[Tensor] | None = None,
        carried: dict[str, dict[str, Tensor]] | None = None,
    ) -> Tensor:
        """x (batch, steps, inputs) of integers → the readout's output (batch, steps, classes), in x's dtype.

        With `record`, also every state and spike of every step, under the names of the integer network; with `sent`,
        the spikes (steps, batch, size) of all layers but the readout. `carried`, empty at first, takes each layer's
        states over to the next call, which goes on with the same samples (see SpikingLayer.forward).
        """
        flow = Flow(self, x, record, carried)
        for node in self.nodes:
            value = flow.run(node)
            if sent is not None and isinstance(node, SpikingLayer) and node is not self.nodes[-1]:
                sent.append(value)
        if record is not None:
            for name in record:
                record[name] = record[name].transpose(0, 1)
        return value.transpose(0, 1)

    def entering(self, x: Tensor, fused: bool = True) -> Tensor:
        """x (batch, steps, inputs) as the first layers see it, (steps, batch, inputs).

        Raises BadInput unless it holds integers 0 … `input_maximum` (see check_input).
        """
        check_input(x, self.inputs, self.input_maximum, fused)
        return x.transpose(0, 1)

    def connections(self, layer: Layer) -> list[tuple[str, int]]:
        """What the layer sees, in the order of its columns: (a layer's name, how many steps late)."""
        return self._connections[layer.name]

    def delays(self, source: str) -> list[int]:
        """How many steps late the outputs of that layer, or the input, are seen at all, ascending."""
        return sorted({d for seen in self._connections.values() for name, d in seen if name == source and d})

    def operations(self, sent: list[Tensor], ends: bool = True) -> Tensor:
        """Synaptic operations of each sample, (batch,): every spike times its fan-out (arXiv 2302.01500, p·Ω at p = 1).

        They are what an event-driven simulation adds: a spike that would be seen after the last step is added to
        nothing any more, unless the sample goes on (not `ends`).
        """
        spikes = dict(zip([layer.config.name for layer in self.stack], sent, strict=False))
        total = sent[0].new_zeros(sent[0].shape[1])
        for layer in self.stack:
            config = layer.config
            for source, delay in self.connections(config):
                if source in spikes:
                    seen = spikes[source][: len(spikes[source]) - delay if ends else None]
                    if layer.window is None:
                        total = total + config.size * seen.sum(dim=(0, 2))
                    else:
                        kernels = layer.rows // config.groups
                        total = total + seen.sum(dim=0) @ planes.fan_out(layer.window, kernels).to(seen)
            if layer.recurrent is not None:
                own = spikes[config.name]
                total = total + layer.recurrent.shape[1] * (own[:-1] if ends else own).sum(dim=(0, 2))
        return total

    def logits(self, x: Tensor, sent: list[Tensor] | None = None) -> Tensor:
        """(batch, classes): the last output, scaled for the loss so that the readout's first range is ±LOGIT_RANGE.

        (batch, steps, classes), every output, where the loss is of every step. `sent`: see forward.
        """
        return self.answers(x, sent) * self.logit_unit(x.shape[1])

    def answers(self, x: Tensor, sent: list[Tensor] | None = None) -> Tensor:
        """What `logits` scales: the outputs that count, as they are deployed."""
        output: Tensor = self(x, sent=sent)
        return output if self.config.training.loss == "steps" else output[:, -1]

    def logit_unit(self, steps: int) -> Tensor | float:
        """The logit that one unit of the output is, () or (1,)."""
        readout = self.stack[-1]
        if readout.config.neuron.kind == "count":
            return LOGIT_RANGE / steps
        proportional = readout.config.states.quantized and readout.state_quantizer is None
        shift = int(readout.shifts[2]) if proportional else 0
        return readout.unit.squeeze(1) * float(1 << shift) * (LOGIT_RANGE / readout.config.states.range)

    def choose_targets(self, y: np.ndarray) -> None:
        """Takes the mean of real targets (samples, outputs), and as ±LOGIT_RANGE a bit more than they reach from it."""
        reach = np.abs(y - y.mean(axis=0)).max(axis=0)
        if not (reach > 0).all():
            raise BadInput("targets: expected ones that differ, so that there is something to learn")
        self.target_mean.copy_(torch.from_numpy(y.mean(axis=0)))
        self.target_reach.copy_(torch.from_numpy(reach * TARGET_MARGIN))

    def real_values(self) -> tuple[np.ndarray, np.ndarray]:
        """(offset, unit) of each output, (outputs,): its real value is offset + unit · output."""
        with torch.no_grad():
            unit = self.target_reach * self.logit_unit(1) / LOGIT_RANGE
        return self.target_mean.cpu().numpy(), unit.cpu().numpy()

    def anneal(self, epoch: int) -> None:
        """Sets the differentiable quantizers up for the epoch, the first being 0."""
        training = self.config.training
        if isinstance(training, Ridge):
            return
        for layer in self.stack:
            layer.anneal(min((epoch + 1) * training.temperature, MOST_SHARP), training.forward == "soft")

    @torch.no_grad()
    def begin_norms(self, x: Tensor) -> None:
        """Starts every norm with the moments of x (batch, steps, inputs), layer by layer, and the scales to suit it.

        Before training, which then moves the moments; an optimizer is to be made afterwards.
        """
        flow = Flow(self, x)
        for node in self.nodes:
            if isinstance(node, SpikingLayer) and node.config.norm != "none":
                node.keep(node.integers(flow.seen(node)).moments, share=1.0)
                node.begin()
            flow.run(node)

    def project(self) -> None:
        """Brings every layer's parameters back to their domain."""
        for layer in self.stack:
            layer.project()

    def restore(self, tensors: dict[str, Tensor], where: Path) -> None:
        """Takes the parameters. Raises BadInput unless scales and thresholds are positive and shifts are shifts."""
        self.load_state_dict(tensors)
        if self.config.training.loss == "regression" and not bool((self.target_reach > 0).all()):
            raise BadInput(f"{where}: target_reach: expected positive numbers")
        for layer in self.stack:
            check_layer(layer, f"{where}: layer {layer.config.name}")

"""A network in training: a graph of layers, the hard forward in torch, and its checkpoint in safetensors."""

from pathlib import Path

import numpy as np
import torch
from quantal.export.base.errors import BadInput, named, shown
from quantal.export.base.names import relay
from quantal.export.base.reading import damaged
from quantal.qat.arithmetic import planes
from quantal.qat.arithmetic.exact import exact_products
from quantal.qat.arithmetic.surrogates import Surrogate
from quantal.qat.arithmetic.torch_ops import TorchOps
from quantal.qat.config.graph import check_size
from quantal.qat.config.parts import layers
from quantal.qat.config.parts.layers import Layer
from quantal.qat.config.parts.network import Config
from quantal.qat.config.parts.training import MOST_SHARP, Ridge, Training
from quantal.qat.data.encoding import encoded_channels, encoded_maximum
from quantal.qat.engine import cpu
from quantal.qat.network.layer import SpikingLayer
from quantal.qat.network.reservoir import draw
from quantal.qat.quantizers.weights import Learned
from safetensors.torch import load_file
from torch import Tensor, nn

LOGIT_RANGE = 12.0
TARGET_MARGIN = 1.25
_CHECKED = 65_536  # values of the input that are checked at a time, so that they stay in a processor's cache


def _surrogate(training: Training) -> Surrogate:
    """What a spike's derivative is taken to be; ridge takes none."""
    if isinstance(training, Ridge):
        return Surrogate()
    return Surrogate(training.surrogate, training.slope, training.damping)


class Pool(nn.Module):
    """The sums over the windows of one layer's outputs: (steps, batch, inputs) → (steps, batch, config.size)."""

    def __init__(self, config: layers.Pool, inputs: int):
        super().__init__()
        self.config, self.window = config, config.window
        if self.window.size != inputs:
            raise BadInput(f"{config.name}: shape: {list(config.shape)} are not the {inputs} values that it sees")

    def forward(self, x: Tensor, record: dict[str, Tensor] | None = None) -> Tensor:
        """See the class; with `record`, also there."""
        with exact_products(x.device):
            sums = planes.pooled(x, self.window)
        if record is not None:
            record[f"{self.config.name}.sum"] = sums
        return sums


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
                parts = [torch.full((sizes[name] * len(layer.delays),), most[name]) for name in sources]
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
            self.register_buffer("target_mean", torch.zeros(outputs, dtype=torch.float64))
            self.register_buffer("target_reach", torch.ones(outputs, dtype=torch.float64))
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

        Raises BadInput unless it has a step and holds integers 0 … `input_maximum`, as float32 or float64. On a GPU
        this waits for x: a fault that is found later, the driver tells, and takes the process with it. `fused`: whether
        the engine is made for this pass anyway, which then looks at x too.
        """
        if x.ndim != 3 or x.shape[2] != self.inputs or not x.shape[1]:
            raise BadInput(f"input: expected (samples, steps from 1, {self.inputs} inputs), got {tuple(x.shape)}")
        if x.dtype not in (torch.float32, torch.float64):
            kind = str(x.dtype).removeprefix("torch.")
            raise BadInput(f"input: expected integers as float32 or float64, got {kind}")
        values, most = x.detach(), self.input_maximum
        compiled = fused and not x.is_cuda and cpu.available()
        if not (cpu.whole(values, most) if compiled else _whole(values, most)):
            sample, step, channel = (values.clamp(0, most).floor_() != values).nonzero()[0].tolist()
            raise BadInput(
                f"input: expected integers 0..{most}, got {float(values[sample, step, channel]):g} "
                f"at sample {sample}, step {step}, channel {channel}"
            )
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
        self.target_mean.copy_(torch.as_tensor(y.mean(axis=0)))
        self.target_reach.copy_(torch.as_tensor(reach * TARGET_MARGIN))

    def real_values(self) -> tuple[np.ndarray, np.ndarray]:
        """(offset, unit) of each output, (outputs,): its real value is offset + unit · output."""
        with torch.no_grad():
            unit = self.target_reach * torch.as_tensor(self.logit_unit(1)).double() / LOGIT_RANGE
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
            place = f"{where}: layer {layer.config.name}"
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


class Flow:
    """One pass over a network: what its layers have said so far of x (batch, steps, inputs), node by node.

    record and carried: see SpikingNetwork.forward.
    """

    def __init__(
        self,
        network: SpikingNetwork,
        x: Tensor,
        record: dict[str, Tensor] | None = None,
        carried: dict[str, dict[str, Tensor]] | None = None,
    ):
        self.network, self.record, self.carried = network, record, {} if carried is None else carried
        x = network.entering(x, record is None)
        self.values = {"input": x}
        self.currents = {
            layer.add: x for layer in network.config.layers if layer.add
        }  # until that layer leaves its own
        self._delay("input")

    def seen(self, node: SpikingLayer | Pool) -> Tensor:
        """What the node sees (steps, batch, inputs): outputs of others, one beside the other."""
        parts = [self.values[relay(*connection)] for connection in self.network.connections(node.config)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def output(
        self,
        node: SpikingLayer | Pool,
        record: dict[str, Tensor] | None = None,
        carried: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """What the node says (steps, batch, size), from the states that are carried, or the first; nobody sees it."""
        seen = self.seen(node)
        if isinstance(node, Pool):
            return node(seen, record)  # type: ignore[no-any-return]
        return node(seen, self.network.ops, record, carried, self.currents)  # type: ignore[no-any-return]

    def run(self, node: SpikingLayer | Pool, record: dict[str, Tensor] | None = None) -> Tensor:
        """What the node says, kept for those that see it; `record`: for this node alone."""
        name = node.config.name
        value = self.output(node, self.record if record is None else record, self.carried.setdefault(name, {}))
        self.values[name] = value
        self._delay(name)
        return value

    def _delay(self, source: str) -> None:
        """Keeps what is seen of the source some steps late too: 0 before there was any."""
        before = 0
        for delay in self.network.delays(source):
            value, name = self.values[relay(source, before)], relay(source, delay)
            held = self.carried.setdefault(name, {})
            line = held.get("line", value.new_zeros(delay - before, *value.shape[1:]))
            both = torch.cat([line, value])
            self.values[name], held["line"] = both[: len(value)], both[len(value) :].detach()
            if self.record is not None:
                if delay - before == 1:
                    self.record[f"{name}.line"] = value
                self.record[f"{name}.value"] = self.values[name]
            before = delay


def _whole(x: Tensor, most: int) -> bool:
    """Whether x holds integers 0 … most alone; on the CPU a few samples at a time."""
    some = len(x) if x.is_cuda else _CHECKED // max(1, x.shape[1] * x.shape[2])
    # NaN does not equal itself
    return all(torch.equal(part.clamp(0, most).floor_(), part) for part in torch.split(x, max(1, some)))


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


def hard_trace(network: SpikingNetwork, x: np.ndarray, dtype: torch.dtype) -> dict[str, np.ndarray]:
    """The hard forward on x (samples, steps, inputs): every record and "output", each (samples, steps, neurons).

    These are the golden vectors. `dtype` must be exact for the network (see lower.exact_dtype).
    """
    record: dict[str, Tensor] = {}
    device = next(network.parameters()).device
    with torch.no_grad():
        record["output"] = network(torch.as_tensor(np.ascontiguousarray(x)).to(device, dtype), record)
    order = [name for name in record if name != "output"] + ["output"]
    return {name: _integers(record[name], name) for name in order}


def _integers(values: Tensor, name: str) -> np.ndarray:
    whole = values.cpu().numpy().astype(np.int64)
    if not bool((values.cpu() == torch.as_tensor(whole)).all()):
        raise BadInput(f"{name}: the forward is not an integer one: full precision cannot be exported")
    return whole

"""One pass over a network, node by node."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quantal.export.base.names import relay
from quantal.qat.network.layer import SpikingLayer
from quantal.qat.network.pool import Pool

if TYPE_CHECKING:
    from quantal.qat.network.network import SpikingNetwork


class Flow:
    """One pass over a network: what its layers have said so far of x (batch, steps, inputs), node by node.

    record and carried: see SpikingNetwork.forward.
    """

    def __init__(
        self,
        network: "SpikingNetwork",
        x: Tensor,
        record: dict[str, Tensor] | None = None,
        carried: dict[str, dict[str, Tensor]] | None = None,
    ):
        self.network, self.record, self.carried = network, record, {} if carried is None else carried
        x = network.entering(x, record is None)
        self.values = {"input": x}
        # Of the layers whose current others add; x until they leave their own.
        self.currents = {layer.add: x for layer in network.config.layers if layer.add}
        self._delay("input")

    def seen(self, node: SpikingLayer | Pool) -> Tensor:
        """What the node sees (steps, batch, inputs): outputs of others, one beside the other."""
        parts = [self.values[relay(*connection)] for connection in self.network.connections(node.config)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def output(self, layer: SpikingLayer) -> Tensor:
        """What the layer would say (steps, batch, size) from its first states; nobody sees it."""
        said: Tensor = layer(self.seen(layer), self.network.ops, currents=dict(self.currents))
        return said

    def run(self, node: SpikingLayer | Pool, record: dict[str, Tensor] | None = None) -> Tensor:
        """What the node says, kept for those that see it; `record`: for this node alone."""
        name, seen, record = node.config.name, self.seen(node), self.record if record is None else record
        if isinstance(node, Pool):
            value: Tensor = node(seen, record)
        else:
            value = node(seen, self.network.ops, record, self.carried.setdefault(name, {}), self.currents)
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

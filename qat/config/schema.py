"""What a network is and how it is trained: one dataclass for each table of NET.toml, with what a field may be."""

from dataclasses import MISSING, asdict, dataclass, field, replace
from typing import Any

import tomli_w
from quantal.export.base.windows import Window
from quantal.export.encoders import ENCODERS
from quantal.qat.arithmetic.neurons import NEURONS, RESETS, SYNAPSES, TIMINGS
from quantal.qat.arithmetic.surrogates import SURROGATES
from quantal.qat.quantizers.normalization import NORMS
from quantal.qat.quantizers.states import AFTER_RESET, STATE_QUANTIZERS
from quantal.qat.quantizers.weights import WEIGHT_QUANTIZERS

WEIGHTS = (*range(1, 9), "learned", "float")
STATES = (*range(1, 17), "float")
LOSSES = ("last", "steps", "regression")
MOST_SHARP = 1000.0


def one_of(*choices: Any, default: Any = MISSING) -> Any:
    """A field that takes one of the choices."""
    return field(default=default, metadata={"choices": choices})


def within(lo: float, hi: float, default: Any = MISSING) -> Any:
    """A field that takes a number in [lo, hi]."""
    return field(default=default, metadata={"range": (lo, hi)})


@dataclass(frozen=True)
class Task:
    """[task]: the data set, and the options of its loader (see data.py)."""

    name: str = one_of(
        *("digits", "mnist", "nmnist", "speech", "braille", "shd", "ssc", "dvs-gesture", "qtdb", "timeseries", "npz")
    )
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Encoder:
    """[encoder]: how data becomes the integers of each step (see encoding.py)."""

    kind: str = one_of(*ENCODERS, default="direct")
    steps: int = within(1, 65_535, default=8)
    seed: int = within(0, 2**32 - 1, default=0)
    delta: int = within(1, 2**16 - 1, default=16)


@dataclass(frozen=True)
class Layer:
    """[[layer]]: a layer of neurons, and how it is connected.

    inputs: the layers whose outputs it sees, "input" being the network's own; the layer before unless given.
    delays: it sees each of them so many steps late, once for each delay, with weights of its own. add: the name of a
    layer whose current, of the same size, is added to its own. connection: to all of the inputs ("dense"), by a
    convolution ("conv") or by sums over windows ("pool"), which has neither weights nor neurons (neuron = "none"). Of
    the latter two shape is that of what they see, [channels, length] or [channels, height, width], where that is no
    such layer itself; kernel, stride and padding have one or two numbers, and values come channel by channel, row by
    row. A convolution has so many channels, each of which sees a share of the inputs' in so many groups; what other
    layers learn of each neuron it learns of each channel. recurrence: "diagonal", of each neuron to itself alone.

    weights: bits of the codes (1 = ±1), "learned", or "float"; weight_quantizer: see weight_quantizers.py.
    scale: one a "row" or one a "layer".
    states: bits of the membrane's code, or "float"; state_quantizer: see state_quantizers.py; state_range: how many
    thresholds the code spans at first; state_gradient: cut where the membrane is saturated ("clip"), or nowhere.
    decay: β at first, learned as m / 2^decay_bits; 1 for a membrane that does not leak. synapse: "exponential" for a
    current that decays by synapse_decay, α, learned too. adaptation: by how many thresholds each spike raises the
    threshold at first, learned, which decays by adaptation_decay. adaptation_spread: s, where its time constants,
    1 / (1 − adaptation_decay), lie at first from 1/s to s times that, evenly in the logarithm. refractory: for how many
    steps after a spike a neuron sends none. Currents and adaptation are kept in as many bits as the membrane, evenly
    spaced over state_range; an alpha neuron's two are larger than their difference, and take a range of 8 or more.
    threshold: at first, learned, one a neuron ("auto") or one a layer; where the states have a table, each row's scale
    is learned instead. gain: of the initial weights.
    spikes: how many a neuron sends at once at most. norm: of the current, "batch" or "layer-batch", or of the spikes
    that come in, "psp", see normalization.py. standardize: the rows of the weights before they are quantized, as maqd
    does anyway. A step neuron keeps nothing: how states are kept says nothing of it, and what they do is refused.
    reservoir: nothing of the layer is trained, see reservoir.py. density: the share of its recurrent weights that are
    not 0, of each row one at least; inhibitory: that of its neurons whose recurrent weights are negative; gain: that of
    its recurrent weights alone; rate: how often a neuron spikes in a step, on average over training samples.
    """

    name: str
    size: int = within(0, 65_536, default=0)
    neuron: str = one_of(*NEURONS, "none", default="lif")
    inputs: tuple[str, ...] = ()
    delays: tuple[int, ...] = (0,)
    add: str = ""
    connection: str = one_of("dense", "conv", "pool", default="dense")
    channels: int = within(0, 65_536, default=0)
    groups: int = within(1, 65_536, default=1)
    shape: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    recurrent: bool = False
    recurrence: str = one_of("full", "diagonal", default="full")
    weights: int | str = one_of(*WEIGHTS, default=4)
    weight_quantizer: str = one_of(*WEIGHT_QUANTIZERS, default="lsq")
    states: int | str = one_of(*STATES, default=8)
    state_quantizer: str = one_of(*STATE_QUANTIZERS, default="uniform")
    state_gradient: str = one_of("clip", "identity", default="clip")
    scale: str = one_of("row", "layer", default="row")
    state_range: float = within(1, 1024, default=2.0)
    decay: float = within(0, 1, default=0.9)
    decay_bits: int = within(1, 12, default=6)
    decay_per: str = one_of("layer", "neuron", default="layer")
    synapse: str = one_of(*SYNAPSES, default="none")
    synapse_decay: float = within(0, 1, default=0.8)
    adaptation: float = within(0, 1000, default=0.0)
    adaptation_decay: float = within(0, 1, default=0.95)
    adaptation_spread: float = within(1, 1e3, default=1.0)
    refractory: int = within(0, 255, default=0)
    threshold: float = within(1e-3, 1e3, default=1.0)
    threshold_per: str = one_of("auto", "layer", "neuron", default="auto")
    bias: bool = True
    reset: str = one_of(*RESETS, default="subtract")
    timing: str = one_of(*TIMINGS, default="delayed")
    pool: str = one_of("last", "max", default="last")
    spikes: int = within(1, 15, default=1)
    norm: str = one_of(*NORMS, default="none")
    standardize: bool = False
    gain: float = within(1e-3, 1e3, default=1.0)
    reservoir: bool = False
    density: float = within(0, 1, default=0.1)
    inhibitory: float = within(0, 1, default=0.2)
    rate: float = within(1e-4, 1, default=0.05)

    @property
    def window(self) -> Window | None:
        """What its kernels see; none where it is dense."""
        return None if self.connection == "dense" else Window(self.shape, self.kernel, self.stride, self.padding)

    @property
    def rows(self) -> int:
        """How many rows of weights it has: one a neuron, or one a channel."""
        return self.channels if self.connection == "conv" else self.size

    @property
    def resets_at_once(self) -> bool:
        """Whether its neurons fire, and are reset in the same step."""
        return NEURONS[self.neuron].fires and self.reset != "none" and self.timing == "immediate"

    @property
    def after_reset(self) -> bool:
        """Whether a membrane is quantized after its neuron has fired and been reset, and not before."""
        return self.states != "float" and self.resets_at_once and self.state_quantizer in AFTER_RESET


@dataclass(frozen=True)
class Training:
    """[training]: Adam with a learning rate that halves every `halving` epochs, whatever the number of epochs.

    Differentiable quantizers, which alone have them: in epoch n, from 1, the temperature is n · `temperature`, at most
    MOST_SHARP; their forward while training is `hard`, or `soft` as published. Deployed it is hard.
    penalty: λ of the spiking synaptic penalty: on a sample's synaptic operations, as a share of those with a spike of
    every neuron at every step. surrogate, slope and damping: what a spike's derivative is taken to be, see
    surrogates.py. decay_rate: the share of the learning rate that decays have. clip: a batch's gradient that is longer,
    all parameters taken together, is shortened to this norm (arXiv 1211.5063); 0 for none.
    loss: the class of the last output ("last"), the class at every step ("steps") or real targets, which are read from
    the last output ("regression"): see objectives.py.
    teacher_share: of the loss, what is the teacher's where there is one (`--teacher`), softened by teacher_temperature.
    truncate: no gradient passes from step t to t − 1 where it divides t, nor is the past kept for one; 0 for whole
    sequences. Of a loss on the last output only the steps from the last such t on learn.
    budget: bytes that all weights together may take, where layers learn their bits; 0 where none does.
    method: gradients through all time ("bptt"), or from accumulations, for the mean of the losses of all steps
    ("saf-e") or for that of the last ("saf-f"); decays are then not learned, see online.py. "ridge": the readout alone
    is learned, at once, see ridge.py; ridge: its penalty, 0 for one that is chosen.
    """

    epochs: int = within(0, 100_000, default=10)
    batch: int = within(1, 65_536, default=64)
    rate: float = within(0, 10, default=2e-3)
    decay_rate: float = within(0, 1, default=1.0)
    clip: float = within(0, 1e6, default=0.0)
    halving: float = within(1e-3, 1e9, default=5.0)
    seed: int = within(0, 2**32 - 1, default=0)
    loss: str = one_of(*LOSSES, default="last")
    teacher_share: float = within(0, 1, default=0.5)
    teacher_temperature: float = within(0.1, 1000, default=2.0)
    penalty: float = within(0, 1e6, default=0.0)
    surrogate: str = one_of(*SURROGATES, default="fast-sigmoid")
    slope: float = within(1e-3, 1e3, default=5.0)
    damping: float = within(1e-3, 1, default=1.0)
    temperature: float = within(1e-3, 1e3, default=10.0)
    forward: str = one_of("hard", "soft", default="hard")
    truncate: int = within(0, 65_535, default=0)
    budget: int = within(0, 2**31 - 1, default=0)
    method: str = one_of("bptt", "saf-e", "saf-f", "ridge", default="bptt")
    ridge: float = within(0, 1e12, default=0.0)


@dataclass(frozen=True)
class Augmentation:
    """[augmentation]: what is done to the events of the training samples, anew in each epoch (see augmentation.py).

    shift_space, in channels of the plane that is left after pooling, and shift_time, in steps: how far a sample is
    moved at most. jitter: by how many steps an event is moved at most. drop: the share of events that are left out.
    """

    shift_space: int = within(0, 65_535, default=0)
    shift_time: int = within(0, 65_535, default=0)
    jitter: int = within(0, 65_535, default=0)
    drop: float = within(0, 1, default=0.0)


@dataclass(frozen=True)
class Config:
    """A whole NET.toml."""

    task: Task
    encoder: Encoder
    layers: tuple[Layer, ...]
    training: Training
    augmentation: Augmentation = Augmentation()

    @property
    def sources(self) -> tuple[tuple[str, ...], ...]:
        """What each layer sees, by name."""
        before = ("input", *(layer.name for layer in self.layers))
        return tuple(layer.inputs or (before[i],) for i, layer in enumerate(self.layers))

    def weight_counts(self, inputs: int) -> dict[str, int]:
        """How many weights each layer has, by name, where `inputs` integers reach the network at each step."""
        sizes, counts = {"input": inputs}, {}
        for layer, sources in zip(self.layers, self.sources, strict=True):
            fan_in = sum(sizes[name] for name in sources) * len(layer.delays)
            if layer.window is not None:
                fan_in = layer.shape[0] // layer.groups * layer.kernel[0] * layer.kernel[1]
            fed_back = {"full": layer.size, "diagonal": 1}[layer.recurrence] if layer.recurrent else 0
            sizes[layer.name] = layer.size
            counts[layer.name] = 0 if layer.connection == "pool" else layer.rows * (fan_in + fed_back)
        return counts

    def with_layers(self, **options: Any) -> "Config":
        """The same network with these fields in every layer; None leaves the layers' own."""
        changes = {name: value for name, value in options.items() if value is not None}
        return replace(self, layers=tuple(replace(layer, **changes) for layer in self.layers))

    def dumps(self) -> str:
        """The TOML text that config_file.loads reads back to the same configuration."""
        document = {
            "task": {"name": self.task.name, **self.task.options},
            "encoder": asdict(self.encoder),
            "layer": [asdict(layer) for layer in self.layers],
            "training": asdict(self.training),
            "augmentation": asdict(self.augmentation),
        }
        return tomli_w.dumps(document)

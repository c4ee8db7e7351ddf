"""The kinds of neurons, and any neuron that a configuration may ask for."""

from typing import Any

from hypothesis import strategies as st

from quantal.qat.arithmetic.neurons import NEURONS, RESETTING, SYNAPSES
from quantal.qat.quantizers.states import AFTER_RESET, STATE_QUANTIZERS

# of neurons, beside how they are reset
KINDS: dict[str, dict[str, Any]] = {
    "synapse": {"synapse": "exponential"},
    "synapses": {"synapse": "exponential", "decay_per": "neuron", "timing": "immediate"},
    "adaptive": {"adaptation": 0.6},
    "adaptive-at-once": {"adaptation": 0.3, "timing": "immediate", "reset": "zero"},
    "refractory": {"refractory": 2},
    "refractory-at-once": {"refractory": 1, "timing": "immediate"},
    "no-leak": {"decay": 1.0},
    "no-leak-table": {"decay": 1.0, "state_quantizer": "squat", "states": 4, "threshold_per": "auto"},
    "all": {"synapse": "exponential", "adaptation": 0.4, "refractory": 1, "reset": "zero-before"},
    "alpha": {"neuron": "alpha", "reset": "zero", "decay": 0.6, "threshold": 0.3, "state_range": 16.0},
    "alpha-never-reset": {
        "neuron": "alpha", "reset": "none", "decay": 0.3, "decay_per": "neuron", "state_range": 8.0,
    },
}  # fmt: skip


@st.composite
def neuron_options(draw: st.DrawFn, neuron: str, state_quantizer: str, states: int | str) -> dict[str, Any]:
    """How a neuron integrates, fires and is reset: any way that a configuration may ask for."""
    if NEURONS[neuron].stateless:
        return {"spikes": draw(st.integers(1, 4))}
    alpha, tabled = neuron == "alpha", STATE_QUANTIZERS[state_quantizer] is not None and states != "float"
    spikes = 1 if tabled or alpha or not NEURONS[neuron].fires else draw(st.integers(1, 4))
    synapse = "none" if alpha or states == 1 else draw(st.sampled_from(SYNAPSES))
    reset, timing = draw(
        st.sampled_from(
            [
                (reset, timing)
                for reset, timing in RESETTING
                if not alpha or (reset in ("zero", "none") and timing == "delayed")
                if states != 1 or timing != "immediate" or state_quantizer in AFTER_RESET
                if spikes == 1 or timing != "snntorch"
            ]
        )
    )
    remembers = NEURONS[neuron].fires and not alpha and spikes == 1 and timing != "snntorch"
    adaptation = draw(st.sampled_from([0.0, 0.5, 3.0])) if remembers and states != 1 else 0.0
    decays = st.just(1.0) | st.floats(0, 1)
    decay = draw(st.floats(0, 0.99) if alpha else decays)
    return {
        "decay": decay,
        "spikes": spikes,
        "synapse": synapse,
        "synapse_decay": draw(
            st.floats(decay, 1, exclude_min=True) if alpha else st.just(0.8) if synapse == "none" else decays
        ),
        "reset": reset,
        "timing": timing,
        "adaptation": adaptation,
        "adaptation_decay": draw(decays if adaptation else st.just(0.95)),
        "refractory": draw(st.integers(0, 3)) if remembers else 0,
    }

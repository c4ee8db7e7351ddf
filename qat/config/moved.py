"""Fields of the flat layers that network files once had, and where each stands now."""

MOVED = {
    **dict.fromkeys(
        ("decay", "decay_bits", "decay_per", "threshold", "threshold_per", "reset", "timing", "spikes", "refractory"),
        "[layer.neuron] {key} = {value}",
    ),
    "pool": "[layer.neuron] pool = {value}",
    "synapse": '[layer.neuron] synapse = "exponential"',
    "synapse_decay": "[layer.neuron] synapse = {{ decay = {value} }}, of an alpha neuron synapse_decay = {value}",
    "adaptation": "[layer.neuron] adaptation = {value}",
    "adaptation_decay": "[layer.neuron] adaptation = {{ amount = ..., decay = {value} }}",
    "adaptation_spread": "[layer.neuron] adaptation = {{ amount = ..., spread = {value} }}",
    "weight_quantizer": "[layer.weights] quantizer = {value}",
    "scale": "[layer.weights] scale = {value}",
    "standardize": "[layer.weights] standardize = {value}",
    "gain": "[layer.weights] gain = {value}",
    "state_quantizer": "[layer.states] quantizer = {value}",
    "state_range": "[layer.states] range = {value}",
    "state_gradient": "[layer.states] gradient = {value}",
    "recurrence": "recurrent = {value}",
    "reservoir": 'connection = "reservoir"',
}
"""Of each old field of [[layer]]: how the same is written now."""

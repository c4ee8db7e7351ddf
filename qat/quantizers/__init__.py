"""From reals to codes: weights, states, their calibration and normalization."""

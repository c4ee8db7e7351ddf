"""The encoder in the header makes of raw values exactly what training's encoder made of them."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from quantal.export.base.toolchain import compile_host
from quantal.qat.config import config_file
from quantal.qat.data.encoding import encode
from quantal.qat.network.network import SpikingNetwork
from support.networks import write

STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror", "-fsanitize=undefined")
NETWORK = """
task.name = "npz"
encoder = {{ kind = "{kind}", steps = {steps}{own} }}
[[layer]]
name = "readout"
size = 3
neuron = "li"
"""
STATELESS = """
#define NET_IMPLEMENTATION
#include "net.h"
#include <stdio.h>
int main(void)
{
    static net_sample values[NET_CHANNELS];
    static net_input in[NET_INPUTS];
    uint32_t t;
    while (fread(values, sizeof values, 1, stdin) == 1) {
        for (t = 0; t < NET_STEPS; ++t) {
            net_encode(values, t, in);
            fwrite(in, sizeof in, 1, stdout);
        }
    }
    return 0;
}
"""
STATEFUL = """
#define NET_IMPLEMENTATION
#include "net.h"
#include <stdio.h>
int main(void)
{
    static net_sample values[NET_CHANNELS];
    static net_input in[NET_INPUTS];
    static net_encoder encoder;
    uint32_t t = 0;
    while (fread(values, sizeof values, 1, stdin) == 1) {
        if (t++ % NET_STEPS == 0) {
            net_encoder_reset(&encoder);
        }
        net_encode(&encoder, values, in);
        fwrite(in, sizeof in, 1, stdout);
    }
    return 0;
}
"""


@pytest.mark.parametrize("maximum", [1, 16, 255, 256, 65535])
@pytest.mark.parametrize("kind", ["latency", "rate", "delta"])
def test_c_encodes_as_training_did(kind: str, maximum: int, tmp_path: Path) -> None:
    rng = np.random.default_rng([maximum, len(kind)])
    steps, channels, samples, seed, delta = 13, 7, 20, 4_000_000_001, max(1, maximum // 5)
    shape = (samples, steps, channels) if kind == "delta" else (samples, channels)
    x = rng.integers(0, maximum, shape, endpoint=True)
    x[0], x[1] = 0, maximum
    expected = encode(kind, x, steps=steps, maximum=maximum, seed=seed, delta=delta)
    own = {"latency": "", "rate": f", seed = {seed}", "delta": f", delta = {delta}"}[kind]
    text = NETWORK.format(kind=kind, steps=steps, own=own)
    network = SpikingNetwork(config_file.loads(text, "test"), channels, maximum)
    write(network, tmp_path / "build", "net", expected[:2])
    (tmp_path / "main.c").write_text(STATEFUL if kind == "delta" else STATELESS)
    program = tmp_path / "main"
    compile_host([tmp_path / "main.c"], program, flags=[*STRICT, f"-I{tmp_path / 'build'}"])
    raw = x.astype(np.uint8 if maximum < 256 else np.uint16).tobytes()
    done = subprocess.run([program], input=raw, capture_output=True, check=True)
    assert np.array_equal(np.frombuffer(done.stdout, np.uint8).reshape(expected.shape), expected)
    assert 0 < expected.mean() < 1

"""Bad input: exit code 2, one line that names the file or option and the field, and the files are as they were."""

from pathlib import Path

import pytest

from support.commands import EXPORT, NETWORK, program, refused

# ---- options


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("frobnicate", "No such command 'frobnicate'"),
        ("--frobnicate", "No such option '--frobnicate'"),
        ("train --frobnicate", "No such option '--frobnicate'"),
        ("export", "Missing argument 'RUN'"),
        ("export run", "Missing option '--out'"),
        ("export run more --out new", "unexpected extra argument (more)"),
        ("train --task digits", "Missing option '--out'"),
        ("train --out new", "--task: name a task"),
        ("train --task chess --out new", "--network: task 'chess'"),
        ("train --task npz --out new", "--network: task 'npz'"),
        ("train --task braille --out new", "--network: task 'braille'"),
        ("train --preset chess --out new", "'--preset'"),
        ("train --preset digits --network net.toml --out new", "--network: --preset"),
        ("train --preset digits --task mnist --out new", "--task: 'mnist' 'digits'"),
        ("train --network net.toml --task npz --out new", "--task: 'npz' 'digits'"),
        ("train --network nowhere.toml --out new", "nowhere.toml: No such file"),
        ("train --network run --out new", "run: Is a directory"),
        ("train --task digits --weights 9 --out new", "'--weights' float '9'"),
        ("train --task digits --weights 0 --out new", "'--weights' '0'"),
        ("train --task digits --weights ternary --out new", "'--weights' 'ternary'"),
        ("train --task digits --weights learned --out new", "training: budget:"),
        ("train --task digits --weights 1 --weight-quantizer maqd --out new", "weights: maqd [2, 8] bits, 1"),
        ("train --task digits --weight-quantizer ternary --out new", "'--weight-quantizer': 'ternary' 'tquant'"),
        ("train --task digits --weights 4 --weight-quantizer tquant --out new", "weights: tquant 2 bits, 4"),
        ("train --task digits --states 0 --out new", "'--states' '0'"),
        ("train --task digits --states 1 --out new", "states: uniform [2, 16] bits, 1"),
        ("train --task digits --states 17 --out new", "'--states' '17'"),
        ("train --task digits --states 9 --state-quantizer aligned --out new", "states: aligned [1, 8] bits, 9"),
        ("train --task digits --state-quantizer round --out new", "'--state-quantizer': 'round' 'aligned'"),
        ("train --task digits --epochs -1 --out new", "'--epochs' 0<=x<=100000"),
        ("train --task digits --epochs 100001 --out new", "'--epochs' 0<=x<=100000"),
        ("train --task digits --epochs many --out new", "'--epochs' 'many'"),
        ("train --task digits --seed -1 --out new", "'--seed'"),
        ("train --task digits --seed 4294967296 --out new", "'--seed'"),
        ("train --task digits --device quantum --out new", "No such option '--device'"),
        ("train --network net.toml --weights float --states float --out run", "run: already exists"),
        ("train --task mnist --out new", "mnist: data: folder"),
        ("train --task mnist --data nowhere --out new", "nowhere: data: folder"),
        ("train --task mnist --data run --out new", "train-images-idx3-ubyte: file"),
        ("train --task speech --data net.toml --out new", "net.toml: data: folder"),
        ("train --task speech --data run --out new", "run: recordings"),
        ("train --resume --out nowhere", "nowhere: no such run folder"),
        ("train --resume --out net.toml", "net.toml: no such run folder"),
        ("train --resume --out build", "build/network.toml: No such file"),
        ("train --resume --task digits --out run", "--task: --resume"),
        ("train --resume --network net.toml --out run", "--network: --resume"),
        ("train --resume --preset digits --out run", "--preset: --resume"),
        ("train --resume --weights 4 --out run", "--weights: --resume"),
        ("train --resume --states 8 --out run", "--states: --resume"),
        ("train --resume --weight-quantizer lsq --out run", "--weight-quantizer: --resume"),
        ("train --resume --state-quantizer dq --out run", "--state-quantizer: --resume"),
        ("train --resume --from run --out run", "--from: --resume"),
        ("train --resume --calibration mse --out run", "--calibration: --from"),
        ("train --network net.toml --calibration mse --out new", "--calibration: --from"),
        ("train --network net.toml --from nowhere --out new", "nowhere: no such run folder"),
        ("train --network net.toml --from build --out new", "build/network.toml: No such file"),
        ("train --network net.toml --from run --calibration l2 --out new", "'--calibration': 'l2' 'hindsight'"),
        ("train --network net.toml --from run --calibration gpfq --weight-quantizer dq --out new", "gpfq lsq"),
        ("train --preset digits --from run --out new", "--from: layer hidden: size: 12"),
        ("train --network net.toml --from run --out run", "run: already exists"),
        ("train --resume --seed 0 --out run", "--seed: --resume"),
        ("export nowhere --out new", "nowhere: no such run folder"),
        ("export no\nwhere --out new", "no where: no such run folder"),
        ("export build --out new", "build/network.toml: No such file"),
        ("verify nowhere", "nowhere: no such build folder"),
        ("verify net.toml", "net.toml: no such build folder"),
        ("verify run", "run/network.json: No such file"),
        ("verify build --on mars", "'--on' 'mars' cortex-m0"),
        ("verify build --data net.toml", "--data: --run"),
        ("verify build --samples 0", "'--samples' x>=1"),
        ("verify build --samples 33", "--samples: 32"),
        ("verify build --run run --samples 356", "--samples: 355"),
        ("verify build --run nowhere", "nowhere: no such run folder"),
        ("cost nowhere", "nowhere: no such build folder"),
        ("cost build --core z80", "--core: 'z80' cortex-m0"),
    ],
)
def test_options(place: Path, command: str, words: str) -> None:
    refused(place, command, *words.split())


@pytest.mark.parametrize("command", ["train --network net.toml", "export run", "demo"])
@pytest.mark.parametrize(
    ("out", "why"),
    [
        ("run", "already exists"),
        ("build", "already exists"),
        ("net.toml", "already exists"),
        ("net.toml/below", "cannot be written"),
        ("net.toml/further/below", "cannot be written"),
        ("n" * 5000, "File name too long"),
    ],
)
def test_outputs(place: Path, command: str, out: str, why: str) -> None:
    refused(place, f"{command} --out {out}", out, why)


@pytest.mark.parametrize(
    "command", ["verify ", "cost ", "export --out new ", "train --resume --out ", "verify build --run "]
)
def test_impossible_paths(place: Path, command: str) -> None:
    refused(place, command + "n" * 5000, "File name too long")


@pytest.mark.parametrize(
    "name", ["", "2x", "a\tb", "../x", "x/y", "int", "class", "X", "naïve", "x-y", "x" * 40, "x\n"]
)
def test_names(place: Path, name: str) -> None:
    refused(place, f"{EXPORT} --name {name}", "--name: expected a C identifier")


# ---- as a program of its own


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("cost build --core z80", "--core:"),
        ("verify broken --on interpreter", "broken/network.json"),
        ("train --network overflow.toml --out new", "32 bits"),
    ],
)
def test_the_program_says_one_line_too(place: Path, command: str, words: str) -> None:
    """Not even a warning of some library comes with it."""
    (place / "broken").mkdir()
    (place / "overflow.toml").write_text(
        NETWORK.replace(
            "size = 12",
            "size = 12\nneuron.threshold = 1000\nstates.membrane = 2\nstates.range = 1024\nweights.gain = 0.001",
        )
    )
    refused(place, command, words, run=lambda *args: program(*args, cwd=place))

"""docs/results/presets.md: every preset trained beside its full-precision twin, exported, verified and costed.

Runs the commands that a user would run and writes a row a preset to OUT/presets.jsonl as it goes; what stands there is
not run again, and a training that was cut off goes on. --data names a folder that holds the data sets as `mnist`,
`fsdd` and `qtdb_ecg`; a preset whose data is not there is named and left out.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from quantal.export.base import files

# Where each preset's data stands below --data (digits comes along), and the size of its test set.
SOURCES: dict[str, tuple[str | None, int]] = {
    "digits": (None, 355),
    "speech": ("fsdd", 250),
    "mnist": ("mnist", 10_000),
    "ecg": ("qtdb_ecg", 123),
}
WHOLE_TEST_SET = ("--on", "simulator", "--on", "c-host")


def quantal(*words: object) -> str:
    """What a quantal command prints."""
    print("$ quantal", *words, flush=True)
    command = [sys.executable, "-c", "from quantal.export.cli.main import main; main()", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"exit code {done.returncode}")
    return done.stdout


def measure(preset: str, data: Path, out: Path, seed: int) -> dict[str, Any]:
    """The row of one preset and seed."""
    folder, samples = SOURCES[preset]
    source = ["--data", data / folder] if folder else []
    run, build = out / f"{preset}-{seed}", out / f"{preset}-{seed}-build"
    start = ["--resume"] if run.exists() else ["--preset", preset, "--seed", seed]
    said = quantal("train", *start, *source, "--compare", "--out", run).splitlines()
    full, quantized = (float(line.split()[-2]) for line in said[-2:])
    if not build.exists():
        quantal("export", run, "--out", build)
    everywhere = json.loads(quantal("verify", build, "--json"))
    whole = json.loads(quantal("verify", build, *WHOLE_TEST_SET, "--run", run, *source, "--samples", samples, "--json"))
    costs = json.loads(quantal("cost", build, "--json"))
    return {
        "preset": preset,
        "seed": seed,
        "full_precision_accuracy": full,
        "accuracy": quantized,
        "verify_vectors": everywhere,
        "verify_test_set": whole,
        "cost": costs,
    }


def main() -> None:
    """Runs what is missing, then prints all rows as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--preset", action="append", choices=list(SOURCES), help="only this one; may be repeated")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 to this number, exclusive")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    file = chosen.out / "presets.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    done = {(row["preset"], row["seed"]) for row in rows}
    for preset in chosen.preset or SOURCES:
        folder, _ = SOURCES[preset]
        if folder and not (chosen.data / folder).is_dir():
            print(f"{preset}: left out, there is no {chosen.data / folder}")
            continue
        for seed in range(chosen.seeds):
            if (preset, seed) not in done:
                rows.append(measure(preset, chosen.data, chosen.out, seed))
                files.write(file, "".join(json.dumps(row) + "\n" for row in rows))
    print("| preset | seed | full precision | quantized | values compared | mismatches |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        checks = row["verify_vectors"] + row["verify_test_set"]
        values, mismatches = (sum(check[key] for check in checks) for key in ("values", "mismatches"))
        accuracies = f"{row['full_precision_accuracy']:.2f} % | {row['accuracy']:.2f} %"
        print(f"| {row['preset']} | {row['seed']} | {accuracies} | {values:,} | {mismatches} |")


if __name__ == "__main__":
    main()

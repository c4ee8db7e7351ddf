"""Writes what is made from the structs of network files: docs/network_file.md and docs/network.schema.json."""

from pathlib import Path

from quantal.qat.config.json_schema import json_schema
from quantal.qat.config.reference import reference

FOLDER = Path(__file__).resolve().parent


def main() -> None:
    """See the module."""
    (FOLDER / "network_file.md").write_text(reference(), encoding="utf-8")
    (FOLDER / "network.schema.json").write_text(json_schema(), encoding="utf-8")


if __name__ == "__main__":
    main()

"""The networks that come along, a TOML file each in presets/."""

from importlib import resources

from quantal.qat.config import config_file
from quantal.qat.config.parts.network import Config

PRESETS = ("digits", "mnist", "speech", "ecg")


def preset(name: str) -> Config:
    """The network that quantal ships under that name, with its training."""
    path = resources.files("quantal.qat.config") / "presets" / f"{name}.toml"
    return config_file.loads(path.read_text("utf-8"), f"preset {name}")

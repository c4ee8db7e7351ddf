"""The integer network and everything made from it. Imports neither torch nor qat: network.json alone rebuilds all."""

__version__ = "0.1.0"

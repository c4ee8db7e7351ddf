"""Trains quantized spiking neural networks and ships them as integers, equal bit for bit."""

from quantal.export import __version__

__all__ = ["__version__"]

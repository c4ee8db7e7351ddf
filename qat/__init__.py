"""Training: quantization-aware spiking networks in torch. Reaches export only from lower.py and cli.py."""

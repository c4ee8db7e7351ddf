"""The neurons' arithmetic, and torch's reading of it."""

"""The numpy simulator."""

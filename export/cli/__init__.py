"""The commands that need no torch, and the entry point."""

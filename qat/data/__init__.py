"""Data sets as integers: one file for each kind of file, and the registry."""

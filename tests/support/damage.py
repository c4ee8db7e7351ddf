"""Files changed in one place."""

import numpy as np

# ---- files of a run and of a build, damaged


def flipped(content: bytes, position: int, mask: int) -> bytes:
    """The content with the bits of `mask` flipped in one byte."""
    return bytes([*content[:position], content[position] ^ mask, *content[position + 1 :]])


def spoil(path: str, changes: dict[str, np.ndarray | None]) -> None:
    """Replaces arrays of an .npz file, or leaves out those that become None."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files} | changes
    np.savez(path, **{name: values for name, values in arrays.items() if values is not None})

"""Names in the checkpoints of `yuweihao/MambaOut` (the file is the state dict)."""

from __future__ import annotations


def backbone_key(name: str) -> str:
    """The published key of a parameter of our `MambaOut`."""
    return name.replace("blocks.", "stages.", 1) if name.startswith("blocks.") else name


def classifier_key(name: str) -> str:
    """The published key of a parameter of our `MambaOutClassifier`."""
    return name

"""Names in the checkpoints of `state-spaces/mamba` (`pytorch_model.bin`)."""

from __future__ import annotations

EMBEDDING_KEY = "backbone.embedding.weight"
HEAD_KEY = "lm_head.weight"


def backbone_key(name: str) -> str:
    """The published key of a parameter of our `Mamba`."""
    return "backbone." + name.replace(".mixer.ssm.", ".mixer.")

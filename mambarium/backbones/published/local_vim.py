"""Names in LocalVim's checkpoints of `hunto/LocalMamba` (the entry `state_dict` of the file).

The files also hold `rope.freqs_cos` and `rope.freqs_sin`, which our `LocalVim` computes.
"""

from __future__ import annotations

import re


def backbone_key(name: str) -> str:
    """The published key of a parameter of our `LocalVim`."""
    name = re.sub(r"^patch_embed\.", "patch_embed.proj.", name).replace(".mixer.gate.", ".mixer.attn.")
    # There the number of the route stands behind the part's name: "x_proj_2.weight", "A_log_2".
    return re.sub(r"\.ssms\.(\d+)\.(\w+)", r".\2_\1", name)


def classifier_key(name: str) -> str:
    """The published key of a parameter of our `VimClassifier`."""
    return name

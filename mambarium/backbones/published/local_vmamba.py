"""Names in LocalVMamba's checkpoints of `hunto/LocalMamba` (the entry `state_dict` of the file)."""

from __future__ import annotations

from mambarium.backbones.published import vmamba


def backbone_key(name: str) -> str:
    """The published key of a parameter of our `LocalVMamba`."""
    return vmamba.backbone_key(name).replace(".op.scan.gate.", ".op.multi_scan.attn.")


def classifier_key(name: str) -> str:
    """The published key of a parameter of our `VMambaClassifier`."""
    return vmamba.classifier_key(name)

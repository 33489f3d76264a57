"""Names in LocalVMamba's checkpoints of `hunto/LocalMamba` (the entry `state_dict` of the file)."""

from __future__ import annotations

from collections.abc import Collection

from mambarium.backbones.published.configuration import Expected
from mambarium.backbones.published.format import Format
from mambarium.backbones.vision.local_mamba.local_vmamba import VARIANTS, LocalScan, LocalVMamba
from mambarium.backbones.vision.vmamba import vmamba_checkpoints as vmamba


def backbone_key(name: str) -> str:
    """The published key of a parameter of our `LocalVMamba`."""
    return vmamba.backbone_key(name).replace(".op.scan.gate.", ".op.multi_scan.attn.")


def classifier_key(name: str) -> str:
    """The published key of a parameter of our `VMambaClassifier`."""
    return vmamba.classifier_key(name)


def recognises(keys: Collection[str]) -> bool:
    """Whether these are the names of the official `VSSM` with local scans."""
    return any(".op.multi_scan.attn." in key for key in keys)


def untraced(backbone: LocalVMamba) -> dict[str, Expected]:
    """Arguments of a backbone that leave no trace in its tensors."""
    routes = tuple(module.routes for module in backbone.modules() if isinstance(module, LocalScan))
    return {"routes": Expected((routes,), "routes")}


FORMAT = Format(
    "LocalVMamba (hunto/LocalMamba)",
    LocalVMamba,
    VARIANTS,
    recognises,
    dict,
    backbone_key,
    classifier_key,
    untraced=untraced,
)

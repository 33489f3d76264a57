"""LocalVMamba's checkpoints of `hunto/LocalMamba` (the entry `state_dict` of the file)."""

from mambarium.backbones.published.configuration import Expected
from mambarium.backbones.published.family import IMAGENET, Counted, Family, Format, Published, PublishedWeights
from mambarium.backbones.vision.local_mamba.local_vmamba import VARIANTS, LocalScan, LocalVMamba
from mambarium.backbones.vision.vmamba import vmamba_checkpoints as vmamba


def backbone_key(name: str) -> str:
    """Return the published key of a parameter of our `LocalVMamba`."""
    return vmamba.backbone_key(name).replace(".op.scan.gate.", ".op.multi_scan.attn.")


def untraced(backbone: LocalVMamba) -> dict[str, Expected]:
    """Arguments of a backbone that leave no trace in its tensors."""
    routes = tuple(module.routes for module in backbone.modules() if isinstance(module, LocalScan))
    return {"routes": Expected((routes,), "routes")}


def _published(size: str, top1: float, gmacs: float) -> Published:
    address = f"https://github.com/hunto/LocalMamba/releases/download/v1.0.0/local_vssm_{size}.ckpt"
    return Published(top1, IMAGENET, 224, gmacs, "hunto/LocalMamba", PublishedWeights(address, "Apache-2.0"))


FAMILY = Family(
    LocalVMamba,
    VARIANTS,
    {"local_vmamba_tiny": _published("tiny", 82.7, 5.7), "local_vmamba_small": _published("small", 83.7, 11.4)},
    (Format("LocalVMamba (hunto/LocalMamba)", lambda keys: any(".op.multi_scan.attn." in key for key in keys)),),
    backbone_key,
    vmamba.head_key,
    untraced=untraced,
    counted={
        "local_vmamba_tiny": Counted(25_527_160, 4.65),
        "local_vmamba_small": Counted(49_748_536, 9.46),
    },
)

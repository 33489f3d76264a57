"""ViT (Vision Transformer) as DeiT trains it: torchvision's network behind the contract.

"An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale" (Dosovitskiy et al. 2020, arXiv 2010.11929)
at the sizes and with the initialisation and stochastic depth of "Training data-efficient image transformers &
distillation through attention" (Touvron et al. 2020, arXiv 2012.12877).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mambarium.backbones.contract import FeatureInfo, VisionFeatures
from mambarium.backbones.layers.arguments import check_at_least, check_images, check_multiples
from mambarium.backbones.layers.drop_path import DropPath, drop_path_rates
from mambarium.backbones.layers.heads import PooledClassifier
from mambarium.backbones.layers.patches import resize_positions, resize_stored_positions
from mambarium.backbones.layers.torchvision_backbone import TorchvisionBackbone, torchvision_models
from mambarium.backbones.published.configuration import Expected, fixed
from mambarium.backbones.published.family import (
    IMAGENET,
    Counted,
    Family,
    Format,
    Published,
    PublishedWeights,
    having,
    renamed,
    renaming,
)
from mambarium.backbones.published.timm import timm_config, training_options
from mambarium.errors import InputError


class ViT(TorchvisionBackbone):
    """Vision Transformer, from images to one map of patch features and the class token.

    The features are the residual sum before the final norm, which belongs to `classifier`.

    Args:
        image_size: Height and width of the images for which positions are learned; for others they are interpolated.
        patch_size: Height and width of a patch.
        width: Size of a patch's vector.
        depth: Number of blocks.
        num_heads: Attention heads of a block, a divisor of the width.
        mlp_ratio: Hidden channels of a block's MLP per channel of the width.
        drop_path: Probability of dropping the last block's branches for a sample in training; linearly less before.
    """

    layer_patterns = ((r"network\.encoder\.layers\.encoder_layer_(\d+)\.", 0),)
    no_weight_decay = ("pos_embedding", "class_token")

    def __init__(
        self,
        image_size: int = 32,
        patch_size: int = 4,
        width: int = 128,
        depth: int = 6,
        num_heads: int = 4,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in {"patch_size": patch_size, "depth": depth, "num_heads": num_heads}.items():
            check_at_least(name, value, 1)
        if width < 1 or width % num_heads:
            raise InputError(f"ViT's width {width} must be a multiple of its num_heads {num_heads}")
        if int(mlp_ratio * width) < 1:
            raise InputError(f"ViT's mlp_ratio must leave a hidden channel of its width {width}, got {mlp_ratio}")
        self.width, self.depth, self.num_heads = width, depth, num_heads
        self.mlp_width = int(mlp_ratio * width)
        self.drop_path = drop_path
        self.patch_size = self.size_divisibility = patch_size
        self.feature_info = (FeatureInfo(width, patch_size),)
        self.grid_size = self._grid(image_size, image_size)
        self.network = self.new_network()

    @torch.no_grad()
    def new_network(self) -> nn.Module:
        """Torchvision's network with DeiT's initialisation: truncated normal weights but the convolution's."""
        library: Any = torchvision_models("vision_transformer", "ViT")
        network = library.VisionTransformer(
            image_size=self.grid_size[0] * self.patch_size,
            patch_size=self.patch_size,
            num_layers=self.depth,
            num_heads=self.num_heads,
            hidden_dim=self.width,
            mlp_dim=self.mlp_width,
            num_classes=1,
        )
        network.heads, network.encoder.ln = nn.Identity(), nn.Identity()
        network.conv_proj.reset_parameters()
        for block, rate in zip(network.encoder.layers, drop_path_rates(self.drop_path, self.depth), strict=True):
            # The dropouts at the ends of the two branches, which DeiT does not use.
            block.dropout, block.mlp[-1] = DropPath(rate), DropPath(rate)
        for name, parameter in network.encoder.layers.named_parameters():
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        nn.init.trunc_normal_(network.encoder.pos_embedding, std=0.02)
        nn.init.trunc_normal_(network.class_token, std=0.02)
        return network

    def forward(self, images: Tensor) -> VisionFeatures:
        check_images(images)
        grid = self._grid(images.shape[-2], images.shape[-1])
        network: Any = self.network
        x = network.conv_proj(images).flatten(2).transpose(1, 2)  # (batch, patches, width)
        token = network.class_token.expand(x.shape[0], -1, -1).to(x.dtype)
        token_position, positions = network.encoder.pos_embedding.tensor_split([1], dim=1)
        positions = resize_positions(positions, self.grid_size, grid)
        x = torch.cat([token, x], dim=1) + torch.cat([token_position, positions], dim=1)
        x = network.encoder.layers(x)
        return VisionFeatures([x[:, 1:].transpose(1, 2).unflatten(2, grid)], x[:, 0], {})

    def classifier(self, num_classes: int) -> PooledClassifier:
        """Return final norm and linear head on the class token."""
        return PooledClassifier(self.width, num_classes, nn.LayerNorm(self.width, eps=1e-6))

    def resized(self, parameter_name: str, stored: Tensor) -> Tensor | None:
        """Positions of another square grid, bicubically interpolated as DeiT does; the class token's is the first."""
        if parameter_name != "network.encoder.pos_embedding":
            return None
        return resize_stored_positions(stored, self.grid_size, self.width, "first", True)

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        return check_multiples(f"ViT with patch_size {self.patch_size}", height, width, self.patch_size)


_DEIT = partial(ViT, image_size=224, patch_size=16, depth=12, drop_path=0.1)

# Table 1 of DeiT, without distillation; deit_base is ViT-B/16.
VARIANTS: dict[str, Callable[[], ViT]] = {
    "deit_tiny": partial(_DEIT, width=192, num_heads=3),
    "deit_small": partial(_DEIT, width=384, num_heads=6),
    "deit_base": partial(_DEIT, width=768, num_heads=12),
}


def _published(size: str, sha256: str, top1: float) -> Published:
    address = f"https://dl.fbaipublicfiles.com/deit/deit_{size}_patch16_224-{sha256}.pth"
    return Published(
        top1, IMAGENET, 224, None, "Touvron et al. 2021", PublishedWeights(address, "Apache-2.0", sha256=sha256)
    )


# Names in the checkpoints of `facebookresearch/deit` (the file's entry `model`), as timm's, and of torchvision.
_BLOCK = r"^encoder\.layers\.encoder_layer_(\d+)\."
_FROM_TORCHVISION = {
    r"^class_token$": "cls_token",
    r"^conv_proj\.": "patch_embed.proj.",
    r"^encoder\.pos_embedding$": "pos_embed",
    _BLOCK + r"ln_(\d)\.": r"blocks.\1.norm\2.",
    _BLOCK + r"self_attention\.in_proj_": r"blocks.\1.attn.qkv.",
    _BLOCK + r"self_attention\.out_proj\.": r"blocks.\1.attn.proj.",
    # "linear_1" and "linear_2" in torchvision's older files.
    _BLOCK + r"mlp\.(?:0|linear_1)\.": r"blocks.\1.mlp.fc1.",
    _BLOCK + r"mlp\.(?:3|linear_2)\.": r"blocks.\1.mlp.fc2.",
    r"^encoder\.ln\.": "norm.",
    r"^heads\.head\.": "head.",
}


def timm_arguments(backbone: ViT) -> dict[str, Expected]:
    """Return what the arguments of timm's `VisionTransformer` are for a backbone."""
    absent = Expected((None, False))
    return {
        "patch_size": Expected((backbone.patch_size,), "patch_size"),
        "embed_dim": Expected((backbone.width,), "width"),
        "depth": Expected((backbone.depth,), "depth"),
        "num_heads": Expected((backbone.num_heads,), "num_heads"),
        "mlp_ratio": Expected((backbone.mlp_width,), "mlp_ratio", lambda ratio: int(ratio * backbone.width)),
        **{name: Expected((True,)) for name in ("qkv_bias", "proj_bias", "class_token", "final_norm")},
        **{name: absent for name in ("qk_norm", "scale_attn_norm", "scale_mlp_norm", "pre_norm", "fc_norm")},
        **{name: absent for name in ("no_embed_class", "pool_include_prefix", "init_values", "embed_norm_layer")},
        **fixed(pos_embed="learn", reg_tokens=0),
        "act_layer": Expected(("gelu", None)),
        "norm_layer": Expected(("layernorm", None)),
    }


def untraced(backbone: ViT) -> dict[str, Expected]:
    """Arguments of a backbone that leave no trace in its tensors."""
    return {"num_heads": Expected((backbone.num_heads,), "num_heads")}


# Not those with another activation or norm in their names ("clip", "quickgelu", "gap", "rpn", ...).
_MODELS = r"(deit|vit)_(tiny|small|base|large|huge|giant|gigantic)_patch\d+_\d+"
FAMILY = Family(
    ViT,
    VARIANTS,
    {
        "deit_tiny": _published("tiny", "a1311bcf", 72.2),
        "deit_small": _published("small", "cd65a155", 79.8),
        "deit_base": _published("base", "b5f2ef4d", 81.8),
    },
    (
        Format(
            "DeiT (facebookresearch/deit, timm)",
            having("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"),
            configurations=(
                timm_config(_MODELS, "token", timm_arguments),
                training_options(_MODELS, timm_arguments),
            ),
        ),
        Format(
            "ViT (torchvision)",
            having("conv_proj.weight", "encoder.layers.encoder_layer_0.self_attention.in_proj_weight"),
            renaming(_FROM_TORCHVISION),
        ),
    ),
    lambda name: renamed(name.removeprefix("network."), _FROM_TORCHVISION),
    untraced=untraced,
    counted={
        "deit_tiny": Counted(5_717_416, 1.25),
        "deit_small": Counted(22_050_664, 4.60),
        "deit_base": Counted(86_567_656, 17.56),
    },
)

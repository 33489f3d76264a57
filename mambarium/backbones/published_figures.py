"""What the papers report of the published variants, with where it stands."""

from __future__ import annotations

from typing import NamedTuple


class PublishedFigure(NamedTuple):
    """A variant's headline result.

    Attributes:
        value: The result, in the metric's unit.
        metric: What was measured.
        input_size: Height and width of the images in pixels, or the number of tokens.
        gmacs: Published compute of one input in 10^9 multiply-accumulates (which papers call FLOPs), as its source
            counted it; None where none is published.
        source: Paper or official repository.
    """

    value: float
    metric: str
    input_size: int
    gmacs: float | None
    source: str


IMAGENET = "ImageNet-1K top-1 %"
PILE = "Pile perplexity"
C4 = "C4 training log-perplexity"
COCO = "COCO AP % of the whole detector"

_MAMBA = "Gu & Dao 2023, table 3"
_MOE_MAMBA = "Pioro et al. 2024, table 2"
_VIM = "hustvl/Vim"
_VMAMBA = "MzeroMiko/VMamba"
_MAMBA_VISION = "NVlabs/MambaVision"
_MAMBA_OUT = "yuweihao/MambaOut"
_LOCAL_MAMBA = "hunto/LocalMamba"
_MAMBA_YOLO = "HZAI-ZJNU/Mamba-YOLO"
_DEIT = "Touvron et al. 2021"
_SWIN = "Liu et al. 2021"
_CONVNEXT = "Liu et al. 2022"

PUBLISHED_FIGURES: dict[str, PublishedFigure] = {
    "mamba_130m": PublishedFigure(10.56, PILE, 2048, None, _MAMBA),
    "mamba_370m": PublishedFigure(8.28, PILE, 2048, None, _MAMBA),
    "mamba_790m": PublishedFigure(7.33, PILE, 2048, None, _MAMBA),
    "mamba_1.4b": PublishedFigure(6.80, PILE, 2048, None, _MAMBA),
    "mamba_2.8b": PublishedFigure(6.22, PILE, 2048, None, _MAMBA),
    "moe_mamba_25m": PublishedFigure(3.19, C4, 1024, None, _MOE_MAMBA),
    "moe_mamba_100m": PublishedFigure(2.81, C4, 1024, None, _MOE_MAMBA),
    "vim_tiny": PublishedFigure(76.1, IMAGENET, 224, None, _VIM),
    "vim_tiny_stride8": PublishedFigure(78.3, IMAGENET, 224, None, _VIM),
    "vim_small": PublishedFigure(80.5, IMAGENET, 224, None, _VIM),
    "vim_base": PublishedFigure(81.9, IMAGENET, 224, None, _VIM),
    "vmamba_tiny_v0": PublishedFigure(82.2, IMAGENET, 224, 5.6, _VMAMBA),
    "vmamba_small_v0": PublishedFigure(83.5, IMAGENET, 224, 11.2, _VMAMBA),
    "vmamba_base_v0": PublishedFigure(83.7, IMAGENET, 224, 18.0, _VMAMBA),
    "vmamba_tiny_s2l5": PublishedFigure(82.5, IMAGENET, 224, 4.9, _VMAMBA),
    "vmamba_small_s2l15": PublishedFigure(83.6, IMAGENET, 224, 8.7, _VMAMBA),
    "vmamba_base_s2l15": PublishedFigure(83.9, IMAGENET, 224, 15.4, _VMAMBA),
    "vmamba_tiny_s1l8": PublishedFigure(82.6, IMAGENET, 224, 4.9, _VMAMBA),
    "vmamba_small_s1l20": PublishedFigure(83.3, IMAGENET, 224, 8.6, _VMAMBA),
    "vmamba_base_s1l20": PublishedFigure(83.8, IMAGENET, 224, 15.2, _VMAMBA),
    "mambavision_t": PublishedFigure(82.3, IMAGENET, 224, 4.4, _MAMBA_VISION),
    "mambavision_t2": PublishedFigure(82.7, IMAGENET, 224, 5.1, _MAMBA_VISION),
    "mambavision_s": PublishedFigure(83.3, IMAGENET, 224, 7.5, _MAMBA_VISION),
    "mambavision_b": PublishedFigure(84.2, IMAGENET, 224, 15.0, _MAMBA_VISION),
    "mambavision_b_21k": PublishedFigure(84.9, IMAGENET, 224, 15.0, _MAMBA_VISION),
    "mambavision_l": PublishedFigure(85.0, IMAGENET, 224, 34.9, _MAMBA_VISION),
    "mambavision_l_21k": PublishedFigure(86.1, IMAGENET, 224, 34.9, _MAMBA_VISION),
    "mambavision_l2": PublishedFigure(85.3, IMAGENET, 224, 37.5, _MAMBA_VISION),
    "mambavision_l2_512_21k": PublishedFigure(87.3, IMAGENET, 512, 196.3, _MAMBA_VISION),
    "mambavision_l3_256_21k": PublishedFigure(87.3, IMAGENET, 256, 122.3, _MAMBA_VISION),
    "mambavision_l3_512_21k": PublishedFigure(88.1, IMAGENET, 512, 489.1, _MAMBA_VISION),
    "mambaout_femto": PublishedFigure(78.9, IMAGENET, 224, 1.2, _MAMBA_OUT),
    "mambaout_kobe": PublishedFigure(80.0, IMAGENET, 224, 1.5, _MAMBA_OUT),
    "mambaout_tiny": PublishedFigure(82.7, IMAGENET, 224, 4.5, _MAMBA_OUT),
    "mambaout_small": PublishedFigure(84.1, IMAGENET, 224, 9.0, _MAMBA_OUT),
    "mambaout_base": PublishedFigure(84.2, IMAGENET, 224, 15.8, _MAMBA_OUT),
    "local_vim_tiny": PublishedFigure(76.2, IMAGENET, 224, 1.5, _LOCAL_MAMBA),
    "local_vim_tiny_class_token": PublishedFigure(77.8, IMAGENET, 224, 1.5, _LOCAL_MAMBA),
    "local_vim_small": PublishedFigure(81.1, IMAGENET, 224, 4.8, _LOCAL_MAMBA),
    "local_vmamba_tiny": PublishedFigure(82.7, IMAGENET, 224, 5.7, _LOCAL_MAMBA),
    "local_vmamba_small": PublishedFigure(83.7, IMAGENET, 224, 11.4, _LOCAL_MAMBA),
    "mamba_yolo_tiny": PublishedFigure(44.5, COCO, 640, None, _MAMBA_YOLO),
    "mamba_yolo_base": PublishedFigure(49.1, COCO, 640, None, _MAMBA_YOLO),
    "mamba_yolo_large": PublishedFigure(52.1, COCO, 640, None, _MAMBA_YOLO),
    "deit_tiny": PublishedFigure(72.2, IMAGENET, 224, None, _DEIT),
    "deit_small": PublishedFigure(79.8, IMAGENET, 224, None, _DEIT),
    "deit_base": PublishedFigure(81.8, IMAGENET, 224, None, _DEIT),
    "swin_tiny": PublishedFigure(81.3, IMAGENET, 224, 4.5, _SWIN),
    "swin_small": PublishedFigure(83.0, IMAGENET, 224, 8.7, _SWIN),
    "swin_base": PublishedFigure(83.5, IMAGENET, 224, 15.4, _SWIN),
    "convnext_tiny": PublishedFigure(82.1, IMAGENET, 224, 4.5, _CONVNEXT),
    "convnext_small": PublishedFigure(83.1, IMAGENET, 224, 8.7, _CONVNEXT),
    "convnext_base": PublishedFigure(83.8, IMAGENET, 224, 15.4, _CONVNEXT),
}
"""By variant; those that no paper trained as such (the Transformer sizes) are not in it."""

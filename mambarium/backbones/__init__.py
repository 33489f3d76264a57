"""Backbones: networks from images or sequences to features, at their published sizes and at any other."""

from mambarium.backbones.adapters import SequenceOnImages
from mambarium.backbones.contract import (
    Backbone,
    FeatureInfo,
    SequenceBackbone,
    SequenceOutput,
    State,
    VisionBackbone,
    VisionFeatures,
    detach_state,
    map_state,
    reorder_state,
)
from mambarium.backbones.language.block_recurrent_transformer import BlockRecurrentTransformer
from mambarium.backbones.language.block_state_transformer.block_state_backbone import BlockStateTransformer
from mambarium.backbones.language.lstm import LSTM
from mambarium.backbones.language.mamba.mamba_backbone import Mamba
from mambarium.backbones.language.moe_mamba.moe_mamba_backbone import MoEMamba
from mambarium.backbones.language.s4d import S4D
from mambarium.backbones.language.transformer.transformer_backbone import Transformer
from mambarium.backbones.layers.initialization import initialize
from mambarium.backbones.published.loading import load_pretrained
from mambarium.backbones.published.report import LoadReport
from mambarium.backbones.variants import from_variant, list_variants
from mambarium.backbones.vision.convnext import ConvNeXt
from mambarium.backbones.vision.local_mamba.local_vim import LocalVim
from mambarium.backbones.vision.local_mamba.local_vmamba import LocalVMamba
from mambarium.backbones.vision.mamba_yolo import MambaYOLO
from mambarium.backbones.vision.mambaout.mambaout_backbone import MambaOut
from mambarium.backbones.vision.mambavision.mambavision_backbone import MambaVision
from mambarium.backbones.vision.swin import Swin
from mambarium.backbones.vision.vim.vim_backbone import Vim
from mambarium.backbones.vision.vit import ViT
from mambarium.backbones.vision.vmamba.vmamba_backbone import VMamba

__all__ = [
    "LSTM",
    "S4D",
    "Backbone",
    "BlockRecurrentTransformer",
    "BlockStateTransformer",
    "ConvNeXt",
    "FeatureInfo",
    "LoadReport",
    "LocalVMamba",
    "LocalVim",
    "Mamba",
    "MambaOut",
    "MambaVision",
    "MambaYOLO",
    "MoEMamba",
    "SequenceBackbone",
    "SequenceOnImages",
    "SequenceOutput",
    "State",
    "Swin",
    "Transformer",
    "VMamba",
    "ViT",
    "Vim",
    "VisionBackbone",
    "VisionFeatures",
    "detach_state",
    "from_variant",
    "initialize",
    "list_variants",
    "load_pretrained",
    "map_state",
    "reorder_state",
]

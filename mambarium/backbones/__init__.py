"""Backbones: networks from images or sequences to features, at their published sizes and at any other."""

from mambarium.backbones.adapters import SequenceOnImages
from mambarium.backbones.block_recurrent_transformer import BlockRecurrentTransformer
from mambarium.backbones.block_state_transformer import BlockStateTransformer
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
from mambarium.backbones.convnext import ConvNeXt
from mambarium.backbones.induction_mamba import InductionMamba
from mambarium.backbones.layers.initialization import initialize
from mambarium.backbones.local_vim import LocalVim
from mambarium.backbones.local_vmamba import LocalVMamba
from mambarium.backbones.lstm import LSTM
from mambarium.backbones.mamba import Mamba
from mambarium.backbones.mamba_yolo import MambaYOLO
from mambarium.backbones.mambaout import MambaOut
from mambarium.backbones.mambavision import MambaVision
from mambarium.backbones.moe_mamba import MoEMamba
from mambarium.backbones.published.loading import load_pretrained
from mambarium.backbones.published.report import LoadReport
from mambarium.backbones.s4d import S4D
from mambarium.backbones.swin import Swin
from mambarium.backbones.transformer import Transformer
from mambarium.backbones.variants import from_variant, list_variants
from mambarium.backbones.vim import Vim
from mambarium.backbones.vit import ViT
from mambarium.backbones.vmamba import VMamba

__all__ = [
    "LSTM",
    "S4D",
    "Backbone",
    "BlockRecurrentTransformer",
    "BlockStateTransformer",
    "ConvNeXt",
    "FeatureInfo",
    "InductionMamba",
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

"""Objectives on a backbone's features, each in a LightningModule."""

from mambarium.tasks.classification import ClassificationObjective, ImageClassification
from mambarium.tasks.heads.segmentation import LightFPNHead
from mambarium.tasks.heads.upernet import UperNetHead
from mambarium.tasks.language_modeling import LanguageModeling
from mambarium.tasks.multitask import MultiTask
from mambarium.tasks.optimization import Constant, WarmupCosine, WarmupLinear
from mambarium.tasks.segmentation import SegmentationObjective, SemanticSegmentation
from mambarium.tasks.segmentation_losses import SegmentationLoss

__all__ = [
    "ClassificationObjective",
    "Constant",
    "ImageClassification",
    "LanguageModeling",
    "LightFPNHead",
    "MultiTask",
    "SegmentationLoss",
    "SegmentationObjective",
    "SemanticSegmentation",
    "UperNetHead",
    "WarmupCosine",
    "WarmupLinear",
]

"""Objectives on a backbone's features, each in a LightningModule."""

from mambarium.tasks.classification import ImageClassification
from mambarium.tasks.detection import ObjectDetection
from mambarium.tasks.heads.cascade_rcnn import CascadeMaskRCNN
from mambarium.tasks.heads.fcos import FCOS
from mambarium.tasks.heads.rcnn import FasterRCNN, MaskRCNN
from mambarium.tasks.heads.retinanet import RetinaNet
from mambarium.tasks.language_modeling import LanguageModeling
from mambarium.tasks.optimization import Constant, WarmupCosine, WarmupLinear, WarmupSteps

__all__ = [
    "FCOS",
    "CascadeMaskRCNN",
    "Constant",
    "FasterRCNN",
    "ImageClassification",
    "LanguageModeling",
    "MaskRCNN",
    "ObjectDetection",
    "RetinaNet",
    "WarmupCosine",
    "WarmupLinear",
    "WarmupSteps",
]

"""Objectives on a backbone's features, each in a LightningModule."""

from mambarium.tasks.classification import ClassificationObjective, ImageClassification
from mambarium.tasks.detection import DetectionObjective, ObjectDetection
from mambarium.tasks.export import export_official, export_transformers
from mambarium.tasks.heads.cascade_rcnn import CascadeMaskRCNN
from mambarium.tasks.heads.fcos import FCOS
from mambarium.tasks.heads.rcnn import FasterRCNN, MaskRCNN
from mambarium.tasks.heads.retinanet import RetinaNet
from mambarium.tasks.heads.segmentation import LightFPNHead
from mambarium.tasks.heads.upernet import UperNetHead
from mambarium.tasks.heads.yolo import YOLO
from mambarium.tasks.language_modeling import LanguageModeling
from mambarium.tasks.multitask import MultiTask
from mambarium.tasks.optimization import Constant, WarmupCosine, WarmupLinear, WarmupSteps
from mambarium.tasks.pretrained import load_pretrained
from mambarium.tasks.segmentation import SegmentationObjective, SemanticSegmentation
from mambarium.tasks.segmentation_losses import SegmentationLoss

__all__ = [
    "FCOS",
    "YOLO",
    "CascadeMaskRCNN",
    "ClassificationObjective",
    "Constant",
    "DetectionObjective",
    "FasterRCNN",
    "ImageClassification",
    "LanguageModeling",
    "LightFPNHead",
    "MaskRCNN",
    "MultiTask",
    "ObjectDetection",
    "RetinaNet",
    "SegmentationLoss",
    "SegmentationObjective",
    "SemanticSegmentation",
    "UperNetHead",
    "WarmupCosine",
    "WarmupLinear",
    "WarmupSteps",
    "export_official",
    "export_transformers",
    "load_pretrained",
]

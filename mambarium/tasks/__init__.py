"""Objectives on a backbone's features, each in a LightningModule."""

from mambarium.tasks.classification.classification_task import ClassificationObjective, ImageClassification
from mambarium.tasks.detection.cascade_rcnn import CascadeMaskRCNN
from mambarium.tasks.detection.detection_task import DetectionObjective, ObjectDetection
from mambarium.tasks.detection.fcos import FCOS
from mambarium.tasks.detection.rcnn import FasterRCNN, MaskRCNN
from mambarium.tasks.detection.retinanet import RetinaNet
from mambarium.tasks.detection.yolo import YOLO
from mambarium.tasks.export import export_official, export_transformers
from mambarium.tasks.language_modeling.language_modeling_task import LanguageModeling
from mambarium.tasks.multitask.several_tasks import MultiTask
from mambarium.tasks.optimization import Constant, WarmupCosine, WarmupLinear, WarmupSteps
from mambarium.tasks.pretrained import load_pretrained
from mambarium.tasks.segmentation.segmentation_heads import LightFPNHead
from mambarium.tasks.segmentation.segmentation_losses import SegmentationLoss
from mambarium.tasks.segmentation.segmentation_task import SegmentationObjective, SemanticSegmentation
from mambarium.tasks.segmentation.upernet import UperNetHead

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

"""Data modules: each gives exactly reproducible batches of one kind of data, in Python or by name in YAML."""

from mambarium.platform.data.associative_recall import AssociativeRecall
from mambarium.platform.data.coco import CocoDetection
from mambarium.platform.data.dense_transforms import (
    CopyPaste,
    LargeScaleJitter,
    Mosaic,
    ResizeShortSide,
    WindowCrop,
)
from mambarium.platform.data.digit_scenes import DigitSceneDetection, DigitSceneSegmentation
from mambarium.platform.data.digits import Digits
from mambarium.platform.data.hub_detection import HubDetection
from mambarium.platform.data.hub_images import HubImages
from mambarium.platform.data.hub_segmentation import HubSegmentation
from mambarium.platform.data.hub_text import HubText
from mambarium.platform.data.image_folder import ImageFolder
from mambarium.platform.data.induction_heads import InductionHeads
from mambarium.platform.data.mask_folder import MaskFolder
from mambarium.platform.data.module import ExactDataModule
from mambarium.platform.data.multitask import MultiTaskData
from mambarium.platform.data.pydoc_topics import PydocTopics
from mambarium.platform.data.selective_copying import SelectiveCopying
from mambarium.platform.data.text_files import TextFiles
from mambarium.platform.data.voc import VocDetection

__all__ = [
    "AssociativeRecall",
    "CocoDetection",
    "CopyPaste",
    "DigitSceneDetection",
    "DigitSceneSegmentation",
    "Digits",
    "ExactDataModule",
    "HubDetection",
    "HubImages",
    "HubSegmentation",
    "HubText",
    "ImageFolder",
    "InductionHeads",
    "LargeScaleJitter",
    "MaskFolder",
    "Mosaic",
    "MultiTaskData",
    "PydocTopics",
    "ResizeShortSide",
    "SelectiveCopying",
    "TextFiles",
    "VocDetection",
    "WindowCrop",
]

"""Data modules: each gives exactly reproducible batches of one kind of data, in Python or by name in YAML."""

from mambarium.platform.data.core.data_module import ExactDataModule
from mambarium.platform.data.core.multitask import MultiTaskData
from mambarium.platform.data.images.classification.digits import Digits
from mambarium.platform.data.images.classification.hub_images import HubImages
from mambarium.platform.data.images.classification.image_folder import ImageFolder
from mambarium.platform.data.images.dense.dense_transforms import (
    LargeScaleJitter,
    ResizeShortSide,
    WindowCrop,
)
from mambarium.platform.data.images.detection.coco import CocoDetection
from mambarium.platform.data.images.detection.combining_transforms import CopyPaste, Mosaic
from mambarium.platform.data.images.detection.digit_scene_detection import DigitSceneDetection
from mambarium.platform.data.images.detection.hub_detection import HubDetection
from mambarium.platform.data.images.detection.voc import VocDetection
from mambarium.platform.data.images.segmentation.digit_scene_segmentation import DigitSceneSegmentation
from mambarium.platform.data.images.segmentation.hub_segmentation import HubSegmentation
from mambarium.platform.data.images.segmentation.mask_folder import MaskFolder
from mambarium.platform.data.synthetic.associative_recall import AssociativeRecall
from mambarium.platform.data.synthetic.induction_heads import InductionHeads
from mambarium.platform.data.synthetic.selective_copying import SelectiveCopying
from mambarium.platform.data.text.hub_text import HubText
from mambarium.platform.data.text.pydoc_topics import PydocTopics
from mambarium.platform.data.text.text_files import TextFiles

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

"""Data modules: each gives exactly reproducible batches of one kind of data, in Python or by name in YAML."""

from mambarium.platform.data.digit_scenes import DigitSceneDetection, DigitSceneSegmentation
from mambarium.platform.data.digits import Digits
from mambarium.platform.data.hub_images import HubImages
from mambarium.platform.data.hub_text import HubText
from mambarium.platform.data.image_folder import ImageFolder
from mambarium.platform.data.module import ExactDataModule
from mambarium.platform.data.pydoc_topics import PydocTopics
from mambarium.platform.data.text_files import TextFiles

__all__ = [
    "DigitSceneDetection",
    "DigitSceneSegmentation",
    "Digits",
    "ExactDataModule",
    "HubImages",
    "HubText",
    "ImageFolder",
    "PydocTopics",
    "TextFiles",
]

"""Data modules: each gives exactly reproducible batches of one kind of data, in Python or by name in YAML."""

from mambarium.platform.data.associative_recall import AssociativeRecall
from mambarium.platform.data.digits import Digits
from mambarium.platform.data.hub_images import HubImages
from mambarium.platform.data.hub_text import HubText
from mambarium.platform.data.image_folder import ImageFolder
from mambarium.platform.data.induction_heads import InductionHeads
from mambarium.platform.data.module import ExactDataModule
from mambarium.platform.data.pydoc_topics import PydocTopics
from mambarium.platform.data.selective_copying import SelectiveCopying
from mambarium.platform.data.text_files import TextFiles

__all__ = [
    "AssociativeRecall",
    "Digits",
    "ExactDataModule",
    "HubImages",
    "HubText",
    "ImageFolder",
    "InductionHeads",
    "PydocTopics",
    "SelectiveCopying",
    "TextFiles",
]

"""Objectives on a backbone's features, each in a LightningModule."""

from mambarium.tasks.classification import ImageClassification
from mambarium.tasks.export import export_official, export_transformers
from mambarium.tasks.language_modeling import LanguageModeling
from mambarium.tasks.optimization import Constant, WarmupCosine, WarmupLinear
from mambarium.tasks.pretrained import load_pretrained

__all__ = [
    "Constant",
    "ImageClassification",
    "LanguageModeling",
    "WarmupCosine",
    "WarmupLinear",
    "export_official",
    "export_transformers",
    "load_pretrained",
]

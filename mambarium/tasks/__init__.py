"""Objectives on a backbone's features, each in a LightningModule."""

from mambarium.tasks.classification import ImageClassification
from mambarium.tasks.language_modeling import LanguageModeling
from mambarium.tasks.optimization import Constant, WarmupCosine, WarmupLinear

__all__ = ["Constant", "ImageClassification", "LanguageModeling", "WarmupCosine", "WarmupLinear"]

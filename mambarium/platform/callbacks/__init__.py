"""Callbacks that a configuration can name, by `class_path: mambarium.platform.callbacks.<name>`."""

from mambarium.platform.callbacks.activation_checkpointing import ActivationCheckpointing
from mambarium.platform.callbacks.prediction_pictures import PredictionPictures
from mambarium.platform.callbacks.text_samples import TextSamples

__all__ = ["ActivationCheckpointing", "PredictionPictures", "TextSamples"]

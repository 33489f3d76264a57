"""Backbones: networks from images or sequences to features, at their published sizes and at any other."""

from mambarium.backbones import variants
from mambarium.backbones.adapters import SequenceOnImages
from mambarium.backbones.contract import (
    Backbone,
    FeatureInfo,
    SequenceBackbone,
    SequenceOutput,
    State,
    VisionBackbone,
    VisionFeatures,
    detach_state,
    map_state,
    reorder_state,
)
from mambarium.backbones.layers.initialization import initialize
from mambarium.backbones.published.loading import load_pretrained
from mambarium.backbones.published.report import LoadReport
from mambarium.backbones.variants import *  # noqa: F403  # the families by the names of their classes

__all__ = [
    "Backbone",
    "FeatureInfo",
    "LoadReport",
    "SequenceBackbone",
    "SequenceOnImages",
    "SequenceOutput",
    "State",
    "VisionBackbone",
    "VisionFeatures",
    "detach_state",
    "initialize",
    "load_pretrained",
    "map_state",
    "reorder_state",
    *variants.__all__,
]

"""`list`: the published variants with their sizes."""

from __future__ import annotations

import torch

from mambarium.backbones import from_variant, list_variants
from mambarium.backbones.contract import SequenceBackbone, VisionBackbone
from mambarium.backbones.variants import PUBLISHED, VARIANTS
from mambarium.errors import InputError
from mambarium.tasks import ImageClassification, LanguageModeling
from mambarium.tasks.compute import multiply_accumulates

IMAGE_SIZE = 224
"""Height and width of the images for which compute is counted where nothing is published."""

LENGTH = 2048
"""Tokens for which compute is counted where nothing is published."""

NUM_CLASSES = 1000
VOCAB_SIZE = 50280

COLUMNS = "{:24} {:>12} {:>9} {:>10} {:>10}  {}"


def list_backbones(pattern: str = "*") -> int:
    """Print the published variants: parameters, compute, and what their papers report.

    Parameters are those of `ImageClassification` with 1,000 classes, or of `LanguageModeling` with 50,280 tokens.
    Compute is counted here, on the meta device, in 10^9 multiply-accumulates of one input of the size given:
    products, convolutions, attention and scans.

    Args:
        pattern: Shell pattern of the names, such as "vmamba_*".

    Raises:
        InputError: If no variant's name fits.
    """
    names = list_variants(pattern)
    if not names:
        raise InputError(f"no variant is called {pattern!r}; list '*' shows all {len(VARIANTS)}")
    print(COLUMNS.format("variant", "parameters", "input", "GMAC", "published", "published result"))
    for name in names:
        print(describe(name), flush=True)
    return 0


def describe(name: str) -> str:
    """Return the line of one variant."""
    figure = PUBLISHED.get(name)
    with torch.device("meta"):
        backbone = from_variant(name)
        if isinstance(backbone, VisionBackbone):
            size = figure.input_size if figure else IMAGE_SIZE
            task: ImageClassification | LanguageModeling = ImageClassification(backbone, NUM_CLASSES)
            example, unit = torch.empty(1, 3, size, size), "px"
        else:
            assert isinstance(backbone, SequenceBackbone)
            size = figure.input_size if figure else LENGTH
            task = LanguageModeling(backbone, VOCAB_SIZE)
            example, unit = torch.zeros(1, size, dtype=torch.long), "tok"
        gmacs = sum(multiply_accumulates(task, example).values()) / 1e9
    return COLUMNS.format(
        name,
        f"{sum(parameter.numel() for parameter in task.parameters()):,}",
        f"{size} {unit}",
        f"{gmacs:.2f}",
        "-" if figure is None or figure.gmacs is None else f"{figure.gmacs:.1f}",
        "-" if figure is None else f"{figure.metric} {figure.figure} ({figure.source})",
    )

"""`list`: the published variants with their sizes."""

from __future__ import annotations

from mambarium.backbones.contract import VisionBackbone
from mambarium.backbones.variants import FAMILIES, VARIANTS, list_variants
from mambarium.errors import InputError

IMAGE_SIZE = 224
"""Height and width of the images for which compute is counted where nothing is published."""

LENGTH = 2048
"""Tokens for which compute is counted where nothing is published."""

COLUMNS = "{:24} {:>12} {:>9} {:>10} {:>10}  {}"


def list_backbones(pattern: str = "*") -> int:
    """Print the published variants: parameters, compute, and what their papers report.

    Parameters are those of `ImageClassification` with 1,000 classes, or of `LanguageModeling` with 50,280 tokens.
    Compute is in 10^9 multiply-accumulates of one input of the size given: products, convolutions, attention and scans,
    as counted on the meta device.

    Args:
        pattern: Shell pattern of the names, such as "vmamba_*".

    Raises:
        InputError: If no variant's name fits.
    """
    names = set(list_variants(pattern))
    if not names:
        raise InputError(f"no variant is called {pattern!r}; list '*' shows all {len(VARIANTS)}")
    print(COLUMNS.format("variant", "parameters", "input", "GMAC", "published", "published result"))
    for family in FAMILIES:
        of_images = issubclass(family.backbone, VisionBackbone)
        for name in family.variants:
            if name not in names:
                continue
            figure, counted = family.published.get(name), family.counted[name]
            size = figure.input_size if figure else (IMAGE_SIZE if of_images else LENGTH)
            line = COLUMNS.format(
                name,
                f"{counted.parameters:,}",
                f"{size} {'px' if of_images else 'tok'}",
                f"{counted.gmacs:.2f}",
                "-" if figure is None or figure.gmacs is None else f"{figure.gmacs:.1f}",
                "-" if figure is None else f"{figure.metric} {figure.figure} ({figure.source})",
            )
            print(line, flush=True)
    return 0

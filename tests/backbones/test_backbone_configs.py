"""The shipped backbone files build what their names and first lines say."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import mambarium.backbones
from mambarium.backbones import Backbone, SequenceBackbone, VisionBackbone, from_variant, list_variants
from mambarium.backbones.variants import variant_config

pytestmark = pytest.mark.thorough

FOLDER = Path(__file__).parents[2] / "configs" / "backbones"
FILES = sorted(FOLDER.glob("*.yaml"))


def build(file: Path) -> Backbone:
    return build_from(yaml.safe_load(file.read_text()))


def build_from(config: dict[str, Any]) -> Backbone:
    assert set(config) == {"class_path", "init_args"}
    package, name = config["class_path"].rsplit(".", 1)
    assert package == "mambarium.backbones"
    arguments = {
        key: build_from(value) if isinstance(value, dict) else value for key, value in config["init_args"].items()
    }
    return getattr(mambarium.backbones, name)(**arguments)


@pytest.mark.parametrize("name", list_variants())
def test_the_configuration_of_a_published_variant_builds_it(name: str) -> None:
    with torch.device("meta"):
        built, published = build_from(variant_config(name)), from_variant(name)
    assert {key: value.shape for key, value in built.state_dict().items()} == {
        key: value.shape for key, value in published.state_dict().items()
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_file_builds_a_backbone(file: Path) -> None:
    with torch.device("meta"):
        backbone = build(file)
    assert isinstance(backbone, SequenceBackbone | VisionBackbone)
    stated = re.search(r"([\d.]+) M parameters", file.read_text())
    assert stated is not None
    count = sum(parameter.numel() for parameter in backbone.parameters())
    assert abs(count / 1e6 - float(stated[1])) < 0.06 * float(stated[1]), count


SMALL_IMAGES = [file for file in FILES if file.stem.endswith(("_digits", "_cifar"))]


@pytest.mark.parametrize("file", SMALL_IMAGES, ids=lambda file: file.name)
@torch.no_grad()
def test_small_vision_files_take_their_images(file: Path) -> None:
    size = 8 if file.stem.endswith("_digits") else 32
    backbone = build(file).eval()
    assert isinstance(backbone, VisionBackbone)
    logits = backbone.classifier(10)(backbone(torch.zeros(2, 3, size, size)))
    assert logits.shape == (2, 10)

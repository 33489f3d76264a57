"""Data small enough for any shipped configuration, in the formats that they read."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

VOC_CELL = (
    "<annotation><filename>cell.jpg</filename><size><width>4</width><height>4</height></size><object><name>RBC</name>"
    "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></object></annotation>"
)


@pytest.fixture
def data_options(tmp_path: Path) -> Callable[[Path], list[str]]:
    """Makes the options that give a configuration file data of the kind that it reads."""
    (tmp_path / "text.txt").write_text("some text " * 2000)
    for label in ("a", "b"):
        folder = tmp_path / "images" / "train" / label
        folder.mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (40, 40)).save(folder / f"{index}.png")
    annotations = tmp_path / "annotations" / "instances_train2017.json"
    annotations.parent.mkdir()
    categories = [{"id": number, "name": name} for number, name in ((1, "cat"), (3, "dog"))]
    annotations.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    voc = tmp_path / "voc"
    for file, content in {"ImageSets/Main/train.txt": "cell\n", "Annotations/cell.xml": VOC_CELL}.items():
        (voc / file).parent.mkdir(parents=True)
        (voc / file).write_text(content)
    tokenizer = tmp_path / "tokenizer.json"
    Tokenizer(WordLevel({"a": 0, "<|endoftext|>": 1}, unk_token="a")).save(str(tokenizer))
    given = {
        "TextFiles": ["--data.train", str(tmp_path / "text.txt"), "--data.cache_dir", str(tmp_path / "cache")],
        "ImageFolder": ["--data.path", str(tmp_path / "images")],
        "CocoDetection": ["--data.path", str(tmp_path)],
        "VocDetection": ["--data.path", str(voc)],
        "MaskFolder": ["--data.path", str(tmp_path / "images")],
        "HubText": ["--data.tokenizer", str(tokenizer)],
    }

    def options(config: Path) -> list[str]:
        text = config.read_text()
        if part := re.search(r"^data: (\S+\.yaml)$", text, re.MULTILINE):
            text += (config.parent / part[1]).read_text()
        return next((value for name, value in given.items() if f"class_path: {name}" in text), [])

    return options

"""`predict`: continuations of a prompt, or what is in a folder of images: classes as CSV, objects, masks."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser

from mambarium.errors import InputError
from mambarium.platform.data.core.data_module import ExactDataModule
from mambarium.platform.data.core.multitask import MultiTaskData
from mambarium.platform.data.images.classification.labelled_images import ClassificationImages
from mambarium.platform.data.images.dense.dense_images import DenseImages
from mambarium.platform.data.images.detection.detection_images import DetectionImages
from mambarium.platform.data.images.image_files import find_images
from mambarium.platform.data.text.text_data import Text
from mambarium.platform.pictures.files import DetectionFiles, MaskFiles, new_folder
from mambarium.tasks.classification.classification_task import ImageClassification
from mambarium.tasks.detection.detection_task import ObjectDetection
from mambarium.tasks.language_modeling.language_modeling_task import LanguageModeling
from mambarium.tasks.multitask.several_tasks import MultiTask
from mambarium.tasks.segmentation.segmentation_task import SemanticSegmentation

CLASSES_PER_IMAGE = 5

PREDICT_OPTIONS = ("prompt", "max_new_tokens", "temperature", "top_k", "top_p", "samples", "images", "output")
"""The options that `add_predict_arguments` adds."""


def add_predict_arguments(parser: LightningArgumentParser) -> None:
    """Add the options of `predict`."""
    parser.add_argument(
        "--prompt",
        type=str,
        action="append",
        default=None,
        help="Text to continue (language modelling); several times for several.",
    )
    parser.add_argument("--max_new_tokens", type=int, default=256, help="Tokens to add to the prompt.")
    parser.add_argument(
        "--temperature", type=float, default=0.8, help="Divides the logits; 0 takes the likeliest token."
    )
    parser.add_argument("--top_k", type=int | None, default=None, help="Draw from the k likeliest tokens only.")
    parser.add_argument(
        "--top_p", type=float | None, default=None, help="Draw from the likeliest tokens of this total."
    )
    parser.add_argument("--samples", type=int, default=1, help="Number of continuations.")
    parser.add_argument("--images", type=Path | None, default=None, help="Folder of images.")
    parser.add_argument(
        "--output",
        type=Path | None,
        default=None,
        help="CSV file or, for objects, masks and several tasks, folder to write; predictions(.csv) in the run's "
        "folder if not given.",
    )


def predict(model: LightningModule, datamodule: ExactDataModule, trainer: Trainer, options: Any, output: Path) -> None:
    """Predict with a model whose weights are loaded.

    Args:
        model: The task.
        datamodule: The data module that the task was trained with.
        trainer: Runs the prediction on images.
        options: The parsed options of `predict`.
        output: Where predictions go if the options don't say: a folder, or with `.csv` a file.

    Raises:
        InputError: If the option for the task's input is missing.
    """
    if isinstance(model, LanguageModeling) and isinstance(datamodule, Text):
        if options.prompt is None:
            raise InputError("predict continues a text: give --prompt TEXT")
        print_continuations(model, datamodule, options)
    elif isinstance(model, ImageClassification) and isinstance(datamodule, ClassificationImages):
        if options.images is None:
            raise InputError("predict names the classes of images: give --images FOLDER")
        table = options.output or output.with_suffix(".csv")
        print(f"wrote {write_classes(model, datamodule, trainer, options.images, table)} to {table}")
    elif isinstance(model, ObjectDetection) and isinstance(datamodule, DetectionImages):
        if options.images is None:
            raise InputError("predict finds the objects in images: give --images FOLDER")
        folder = options.output or output
        print(f"wrote {write_detections(model, datamodule, trainer, options.images, folder)} to {folder}")
    elif isinstance(model, SemanticSegmentation) and isinstance(datamodule, DenseImages):
        if options.images is None:
            raise InputError("predict finds the classes of pixels: give --images FOLDER")
        folder = options.output or output
        print(f"wrote {write_masks(model, datamodule, trainer, options.images, folder)} to {folder}")
    elif isinstance(model, MultiTask) and isinstance(datamodule, MultiTaskData):
        if options.images is None:
            raise InputError("predict does every task on images: give --images FOLDER")
        write_tasks(model, datamodule, trainer, options.images, options.output or output)
    else:
        raise InputError(f"predict has no use for {type(model).__name__} with {type(datamodule).__name__}")


def print_continuations(model: LanguageModeling, datamodule: Text, options: Any) -> None:
    """Print the continuations of each prompt, the prompt included; other prompts don't change them."""
    several = len(options.prompt) * options.samples > 1
    for number, (text, index) in enumerate(itertools.product(options.prompt, range(options.samples)), start=1):
        if index == 0:
            prompt = torch.tensor([datamodule.encode(text)], device=model.device)  # (1, length)
            generator = torch.Generator(model.device).manual_seed(options.seed_everything)
        if several:
            print(f"--- {number}")
        tokens = model.generate(
            prompt, options.max_new_tokens, options.temperature, options.top_k, options.top_p, generator
        )
        print(datamodule.decode(tokens[0].tolist()))


def write_tasks(model: MultiTask, datamodule: MultiTaskData, trainer: Trainer, images: Path, output: Path) -> None:
    """Write what each task predicts into a folder with its name.

    Raises:
        InputError: If the output folder exists, or a task's data is none to predict with.
    """
    written: dict[str, str] = {}
    with new_folder(output) as folder:
        for name, data in datamodule.tasks.items():
            of_task = model.of_task(name)
            if isinstance(data, ClassificationImages):
                file = Path(name) / "classes.csv"
                written[str(file)] = write_classes(of_task, data, trainer, images, folder / file)
            elif isinstance(data, DetectionImages):
                written[name] = write_detections(of_task, data, trainer, images, folder / name)
            elif isinstance(data, DenseImages):
                written[name] = write_masks(of_task, data, trainer, images, folder / name)
            else:
                raise InputError(f"predict has no use for the task {name} with {type(data).__name__}")
    for place, content in written.items():
        print(f"wrote {content} to {output / place}")


def write_classes(
    model: LightningModule, datamodule: ClassificationImages, trainer: Trainer, images: Path, output: Path
) -> str:
    """Write one row per image: its path, its likeliest class and up to five of the likeliest with their probabilities.

    Returns:
        What was written.

    Raises:
        InputError: If the output file exists.
    """
    if output.exists():
        raise InputError(f"{output} exists: give another file with --output, or remove it")
    datamodule.predict_path = str(images)
    names = datamodule.class_names
    shown = min(CLASSES_PER_IMAGE, len(names))
    header = ["path", "class", *(f"{kind}_{rank + 1}" for rank in range(shown) for kind in ("class", "probability"))]
    paths = find_images(images)  # the loader reads them in this order
    batches: Any = trainer.predict(model, datamodule=datamodule)
    probabilities = torch.cat(batches)  # (images, classes)
    likeliest = probabilities.topk(shown, dim=1)
    output.parent.mkdir(parents=True, exist_ok=True)
    # Names of files may be any bytes; what is not UTF-8 in them is written as codes.
    with output.open("x", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for path, values, classes in zip(paths, likeliest.values.tolist(), likeliest.indices.tolist(), strict=True):
            pairs = zip(classes, values, strict=True)
            ranked = [cell for number, value in pairs for cell in (names[number], f"{value:.6f}")]
            writer.writerow([path, names[classes[0]], *ranked])
    return f"the classes of {len(paths):,} images"


def write_masks(model: LightningModule, datamodule: DenseImages, trainer: Trainer, images: Path, output: Path) -> str:
    """Write a palette PNG with class numbers and a picture to look at for each image.

    Returns:
        What was written.

    Raises:
        InputError: If the output folder exists.
    """
    datamodule.predict_path = str(images)
    files = find_images(images)
    with new_folder(output) as folder:
        write_files(model, datamodule, trainer, MaskFiles(images.expanduser(), files, folder, datamodule.class_names))
    return f"masks and overlays of {len(files):,} images"


def write_detections(
    model: LightningModule, datamodule: DetectionImages, trainer: Trainer, images: Path, output: Path
) -> str:
    """Write all detections in COCO's format and a picture of the surer ones for each image.

    Images that an annotation file of the data lists keep their ids there; else they are numbered from 1.

    Returns:
        What was written.

    Raises:
        InputError: If the output folder exists.
    """
    datamodule.predict_path = str(images)
    files = find_images(images)
    names = datamodule.class_names
    numbers = datamodule.category_ids or range(len(names))
    listed = datamodule.image_ids(files)
    image_ids, source = (range(1, len(files) + 1), "images.json") if listed is None else listed
    with new_folder(output) as folder:
        writer = DetectionFiles(images.expanduser(), files, folder, names, numbers, image_ids)
        write_files(model, datamodule, trainer, writer)
    return f"detections.json (with the image ids of {source}) and overlays of {len(files):,} images"


def write_files(model: LightningModule, datamodule: ExactDataModule, trainer: Trainer, writer: Callback) -> None:
    """Predict, and let a callback write what is predicted."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by Trainer's connectors, unseen by mypy
    callbacks.append(writer)
    trainer.predict(model, datamodule=datamodule, return_predictions=False)
    callbacks.remove(writer)

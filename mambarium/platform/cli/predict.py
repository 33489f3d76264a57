"""`predict`: continuations of a prompt, or what is in a folder of images: classes as CSV, objects, masks."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser

from mambarium.errors import InputError
from mambarium.platform.data.core.data_module import ExactDataModule
from mambarium.platform.data.images.image_data import ImageData
from mambarium.platform.data.text.text_data import Text
from mambarium.tasks.language_modeling.language_modeling_task import LanguageModeling
from mambarium.tasks.objective import VisionObjective
from mambarium.tasks.predictions import PredictionWriter, new_output
from mambarium.tasks.task import Task

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


def predict(model: Task, datamodule: ExactDataModule, trainer: Trainer, options: Any, output: Path) -> None:
    """Predict with a model whose weights are loaded, by the parsed options of the command.

    Where these name no output, predictions go to the one given here: a folder, or for a table a file with its suffix.

    Raises:
        InputError: If the option for the task's input is missing, or nothing can be written for such a task.
    """
    if isinstance(model, LanguageModeling) and isinstance(datamodule, Text):
        if options.prompt is None:
            raise InputError("predict continues a text; give --prompt TEXT")
        print_continuations(model, datamodule, options)
        return
    predictors = {
        name: (predictor, objective.writer, datamodule.of_tasks[name])
        for name, (predictor, objective) in model.predictors.items()
        if isinstance(objective, VisionObjective)
    }
    if not predictors:
        raise InputError(f"predict has no use for {type(model).__name__} with {type(datamodule).__name__}")
    if options.images is None:
        raise InputError("predict looks at images; give --images FOLDER")
    if "" in predictors:
        predictor, writer, data = predictors[""]
        table = writer.file_name if writer else None
        output = options.output or (output.with_suffix(Path(table).suffix) if table else output)
        with new_output(output) as made:
            written = write_predictions(predictor, writer, data, trainer, options.images, made)
        print(f"wrote {written} to {output}")
        return
    output, lines = options.output or output, []
    with new_output(output) as folder:
        folder.mkdir()
        for name, (predictor, writer, data) in predictors.items():
            place = Path(name) / writer.file_name if writer and writer.file_name else Path(name)
            (folder / place).parent.mkdir(exist_ok=True)
            written = write_predictions(predictor, writer, data, trainer, options.images, folder / place)
            lines.append(f"wrote {written} to {output / place}")
    print("\n".join(lines))


def write_predictions(
    model: LightningModule,
    writer: type[PredictionWriter] | None,
    data: ExactDataModule,
    trainer: Trainer,
    images: Path,
    output: Path,
) -> str:
    """Predict, write what is predicted to a new file or folder, and return what was written."""
    if writer is None or not isinstance(data, ImageData):
        raise InputError(f"predict has no use for {type(model).__name__} with {type(data).__name__}")
    callback = WritePredictions(writer(data.images_to_predict(images), output))
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by Trainer's connectors, unseen by mypy
    callbacks.append(callback)
    trainer.predict(model, datamodule=data, return_predictions=False)
    callbacks.remove(callback)
    return callback.writer.finish()


class WritePredictions(Callback):
    """Hands each batch's predictions to a writer."""

    def __init__(self, writer: PredictionWriter) -> None:
        self.writer = writer

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.writer.add(outputs, batch)


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

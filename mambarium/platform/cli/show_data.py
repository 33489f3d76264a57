"""`show-data`: what a model will see, as a picture or as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mambarium.errors import InputError
from mambarium.platform.cli.configuration.composition import compose
from mambarium.platform.cli.configuration.parser import StrictParser
from mambarium.platform.cli.quiet import quiet_lightning
from mambarium.platform.data.core.data_module import ExactDataModule, Part
from mambarium.tasks.drawing import arrange, write_png

COLUMNS = 4


def run_show_data(arguments: list[str]) -> int:
    """Show samples as a configuration's data module gives them, augmentation included, and return the exit code.

    Raises:
        InputError: If the options don't fit, the data can't be read, or the picture exists already.
    """
    quiet_lightning()
    composed = compose(arguments)
    # model, trainer and the rest of a run are of no interest here
    of_the_data = {key: value for key, value in composed.config.items() if key in ("data", "seed_everything")}
    options = parser().parse_args(composed._replace(config=of_the_data).arguments)
    if options.samples < 1 or options.columns < 1 or options.first < 0 or options.pass_index < 0:
        raise InputError("samples and columns must be 1 or more, first and pass_index 0 or more")
    shown = parser().instantiate(options).data
    shown.prepare_data()
    name = composed.files[0].stem if composed.files else "data"
    output = options.output or Path(f"{name}-{options.part}.png")
    for task, data in shown.of_tasks.items():
        show(data, options, output.with_stem(f"{output.stem}-{task}") if task else output)
    return 0


def show(data: Any, options: Any, output: Path) -> None:
    """Show one task's samples: images as a PNG file, text and sequences of tokens on the terminal."""
    samples = data.samples_to_show(options.part)
    pass_index = options.pass_index if options.part == "train" else 0
    indices = spread(len(samples), options.samples, options.first)
    first = samples[pass_index, indices[0]]
    if data.sample_text(indices[0], first) is not None:
        print("\n".join(data.sample_text(index, samples[pass_index, index]) for index in indices))
        return
    if data.draw_sample(first) is None:
        raise InputError(f"show-data has no picture of {type(data).__name__}")
    if output.exists():
        raise InputError(f"{output} exists; give another file with --output, or remove it")
    pictures = [data.draw_sample(samples[pass_index, index]) for index in indices]
    write_png(arrange(pictures, options.columns), output)
    print(f"{len(pictures)} of {len(samples):,} {options.part} samples, {data.num_classes} classes: {output}")
    print("\n".join(data.description()))


def parser() -> StrictParser:
    """Return the parser of the command's options."""
    made = StrictParser(prog="mambarium show-data", description="Show samples as the model will see them.")
    made.add_argument("-c", "--config", action="config", help="Configuration of an experiment; its data is shown.")
    made.add_argument("--seed_everything", type=int, default=0, help="Seed of order and augmentation.")
    made.add_argument("--part", type=Part, default="train", help="Which part of the data: train, val or test.")
    made.add_argument("--samples", type=int, default=12, help="How many samples, spread evenly over the part.")
    made.add_argument("--first", type=int, default=0, help="Which sample is the first, from 0.")
    made.add_argument("--pass_index", type=int, default=0, help="Which pass through the training data, from 0.")
    made.add_argument("--columns", type=int, default=COLUMNS, help="Pictures in a row.")
    made.add_argument(
        "--output",
        type=Path | None,
        default=None,
        help="PNG file; <name of the configuration>-<part>.png if not given. With several tasks, one file for each.",
    )
    made.add_subclass_arguments(ExactDataModule, "data", required=True)
    made.link_arguments("seed_everything", "data.init_args.seed")
    return made


def spread(num_samples: int, count: int, first: int) -> list[int]:
    """Return some indices, from the first on, spread evenly over all samples: files often lie class by class."""
    count = min(count, num_samples)
    return [(first + position * num_samples // count) % num_samples for position in range(count)]

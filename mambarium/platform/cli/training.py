"""fit, validate, test, predict: Lightning's command line with named, exactly resumable runs."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from mambarium.errors import InputError
from mambarium.kernels import warm_up
from mambarium.platform.cli.configuration.allowed_imports import allow_imports, check_classes
from mambarium.platform.cli.configuration.building import LINKED_ARGUMENTS, build_task, instantiated, link_data_to_model
from mambarium.platform.cli.configuration.composition import SECTIONS, Composition, compose, paired
from mambarium.platform.cli.configuration.parser import StrictParser
from mambarium.platform.cli.configuration.trained_model import (
    CKPT_PATH_HELP,
    TrainedModel,
    choose_checkpoint,
    run_path,
)
from mambarium.platform.cli.configuration.trainer_options import evaluation_trainer, fit_trainer
from mambarium.platform.cli.predict import PREDICT_OPTIONS, add_predict_arguments, predict
from mambarium.platform.cli.processes import ending_together
from mambarium.platform.cli.quiet import quiet_lightning
from mambarium.platform.cli.result_files import metric_lines, recorded, write_result
from mambarium.platform.cli.start_lines import (
    describe_end,
    describe_start,
    metrics_of,
    number_of_parameters,
    run_checkpoint,
    train_seconds,
)
from mambarium.platform.data.core.data_module import ExactDataModule
from mambarium.platform.freed_memory import keep_freed_memory
from mambarium.platform.runs.recovery import Found, check_restorable, check_unfinished, hand_over
from mambarium.platform.runs.run_folder import Decision, ResumePolicy, RunFolder, Status, Step
from mambarium.platform.runs.signals import Interrupted
from mambarium.platform.runs.trainer_settings import exact_trainer_settings
from mambarium.private_names.lightning import VerbsCLI
from mambarium.tasks.task import Task

COMMAND_KEYS = ("config", "name", "runs_dir", "resume", "ckpt_path", "trust", *PREDICT_OPTIONS)
"""Options of a command that are no part of a run's configuration."""


def run_verb(verb: str, arguments: list[str]) -> int:
    """Run one of Lightning's verbs with our defaults.

    Returns:
        The exit code.
    """
    quiet_lightning()
    composition, trained = compose(arguments), None
    if verb != "fit" and not composition.files and not asks_for_help(arguments):
        composition, trained = compose_from_checkpoint(arguments)
    allow_imports(composition.packages)
    return TrainingCLI([verb, *composition.arguments], composition.files, trained).exit_code


def asks_for_help(arguments: list[str]) -> bool:
    """Whether a command is to print its options and nothing else."""
    options = [argument.split("=")[0] for argument in arguments]
    return any(option == "-h" or option.endswith((".help", "--help", "--print_config")) for option in options)


def compose_from_checkpoint(arguments: list[str]) -> tuple[Composition, TrainedModel]:
    """Return the configuration that a checkpoint was trained with, for a command without one, with the options on top.

    Raises:
        InputError: If there is no checkpoint, or it doesn't say what it holds or names code that isn't trusted.
    """
    options = paired(arguments)
    given = {option: value for option, value in options if value is not None}
    choice = given.get("--ckpt_path")
    folder = RunFolder(run_path(given.get("--name"), Path(given.get("--runs_dir", "runs")), [], choice))
    trained = choose_checkpoint(choice, folder)
    trusted = {value for option, value in options if option == "--trust" and value is not None}
    description = trained.description(trusted)
    allow_imports(trusted)
    build_task(trained, description, "meta")  # what it says may be of any size; its weights are not
    composition = compose(arguments, description)
    return composition._replace(packages=composition.packages | trusted), trained


class TrainingCLI(VerbsCLI):
    """Parses a verb and its composed options, decides by the run's folder what is to be done, and does it.

    The configuration files that the options came from give the run its name; where there are none, the options came
    from the `trained` checkpoint.
    """

    trainer: Trainer
    model: Task
    datamodule: ExactDataModule

    def __init__(self, arguments: list[str], config_files: list[Path], trained: TrainedModel | None = None) -> None:
        self.exit_code = 0
        self.trained = trained
        self.compilation_seconds = 0.0
        self.config_files = config_files
        super().__init__(
            model_class=Task,
            datamodule_class=LightningDataModule,
            save_config_callback=None,
            seed_everything_default=0,
            parser_class=StrictParser,
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=arguments,
            auto_configure_optimizers=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the verbs, and which arguments of the Trainer's methods are not options."""
        given = {"model", "datamodule", "weights_only", "ckpt_path"}
        return {
            "fit": {*given, "train_dataloaders", "val_dataloaders"},
            "validate": {*given, "dataloaders", "verbose"},
            "test": {*given, "dataloaders", "verbose"},
            "predict": {*given, "dataloaders", "return_predictions"},
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--name",
            type=str | None,
            default=None,
            help="Name of the run; that of the config file if not given.",
        )
        parser.add_argument("--runs_dir", type=Path, default=Path("runs"), help="Where the folders of runs lie.")
        parser.link_arguments("seed_everything", "data.init_args.seed")
        link_data_to_model(parser)

    def add_arguments_to_verb(self, parser: LightningArgumentParser, verb: str) -> None:
        parser.add_argument("--ckpt_path", type=str | None, default=None, help=CKPT_PATH_HELP[verb])
        if verb != "fit":
            parser.add_argument(
                "--trust",
                type=str,
                action="append",
                default=None,
                help="Module of yours that a checkpoint may name (its backbone's, say); several times for several.",
            )
        if verb == "fit":
            parser.add_argument(
                "--resume",
                type=ResumePolicy,
                default="auto",
                help="auto starts a run or goes on with an unfinished one, must only goes on, never only starts.",
            )
        if verb == "predict":
            add_predict_arguments(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)
        for section in SECTIONS:
            if not isinstance(found := self.options.get(section), Namespace):
                shown = "nothing" if found is None else repr(found)
                raise InputError(f"{section}: expected 'key: value' lines, found {shown}")
        if not 0 <= self.options.seed_everything < 2**32:
            raise InputError(
                f"seed_everything is {self.options.seed_everything}; give a whole number from 0 to {2**32 - 1}"
            )
        check_classes({section: self.options[section].as_dict() for section in SECTIONS}, LINKED_ARGUMENTS)

    @property
    def options(self) -> Any:
        """The parsed options of the verb."""
        return self.config[self.config.subcommand]

    def resolved_config(self) -> dict[str, Any]:
        """Return the configuration with every default, as plain data that `--config` can read again."""
        config = yaml.safe_load(self.parser.dump(self.config, skip_unset=False, format="yaml"))[self.config.subcommand]
        return {key: value for key, value in config.items() if key not in COMMAND_KEYS}

    def run_path(self) -> Path:
        """Return the folder of the run."""
        options = self.options
        return run_path(options.name, Path(options.runs_dir), self.config_files, options.ckpt_path)

    @property
    def is_first_process(self) -> bool:
        """Whether this process is the one that writes; launchers tell the others their rank by the environment."""
        return getattr(rank_zero_only, "rank", 0) == 0

    def before_instantiate_classes(self) -> None:
        if self.subcommand == "fit":
            exact_trainer_settings(vars(self.options.trainer))
        self.run_config = self.resolved_config()
        self.folder = RunFolder(self.run_path())

    def instantiate_classes(self) -> None:
        self.decision = Decision(Step.START)
        if self.subcommand == "fit":
            self.decision = self._decide()
            if self.decision.step is Step.NOTHING:
                return
        elif self.trained is None:
            self.trained = choose_checkpoint(self.options.ckpt_path, self.folder)
        found = self.decision.found
        trained = self.trained if found is None else TrainedModel(found.path, found.checkpoint)
        self.made = instantiated(self.parser, self.config, trained)[self.config.subcommand]
        self.datamodule, self.model = self.made.data, self.made.model
        self.trainer = self.instantiate_trainer()

    def _decide(self) -> Decision:
        self.stamp = self.folder.stamp()
        if self.is_first_process:
            decision = self.folder.decide(self.run_config, self.options.resume)
        else:
            decision = self.folder.follow()
        given = self.options.ckpt_path
        if given is None:
            return decision
        if decision.step is not Step.START:
            raise InputError(f"{self.folder.path} goes on from its own checkpoint; leave --ckpt_path out")
        trained = choose_checkpoint(str(given), self.folder)
        trained.check_same_run(self.run_config)
        found = Found(trained.path, trained.content)
        check_unfinished(found)
        return Decision(Step.START, found)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        options = dict(self.made.trainer)
        seed = self.options.seed_everything
        if self.subcommand == "fit":
            config = yaml.safe_dump(self.run_config, sort_keys=False)
            return fit_trainer(options, self.folder, self.datamodule, seed, self.model, config)
        return evaluation_trainer(options, seed, devices=1 if self.subcommand == "predict" else None)

    def run_verb(self, verb: str) -> None:
        run = {"fit": self._fit, "validate": self._evaluate, "test": self._evaluate, "predict": self._predict}
        if self.decision.step is Step.NOTHING:
            run[verb]()
            return
        with ending_together(self.trainer, self._note_failure):
            run[verb]()

    def _note_failure(self) -> None:
        """Write down that the run has failed where the process that keeps its record can't."""
        if self.subcommand != "fit":
            return
        # The lock is held by the first process, if it lives, or by one that has taken over.
        with suppress(InputError):
            if not self.is_first_process:
                self.folder.lock()
            if self.folder.record().get("status") == "running":
                self.folder.end("failed")

    def _fit(self) -> None:
        if self.decision.step is Step.NOTHING:
            if self.is_first_process:
                print(f"{self.folder.path}: finished already; use another --name to train again")
                print(describe_end(self.folder))
            return
        # Before the folder is begun, so that a wrong file leaves none, and before callbacks copy the model.
        self._prepare_weights()
        if not self.is_first_process:
            self._train()
            return
        description = describe_start(self.folder, self.decision, self.trainer, self.model, self.datamodule)
        self.folder.lock()
        if self.folder.stamp() != self.stamp:
            raise InputError(f"{self.folder.path}: another process has just trained this run; run the command again")
        self.folder.begin(self.run_config, self.decision)
        print(description, flush=True)
        status: Status = "failed"
        values: dict[str, Any] = {"parameters": number_of_parameters(self.model)}
        try:
            self._train()
            status = "interrupted" if self.exit_code else "finished"
            values |= {"step": self.trainer.global_step, "compilation_seconds": round(self.compilation_seconds, 3)}
            values |= {
                "train_seconds": train_seconds(self.trainer),
                "primary_metric": self.model.primary_metric._asdict(),
            }
            if metrics := run_checkpoint(self.trainer).metrics:
                values["metrics"] = recorded(metrics)
            if status == "finished":
                values["references"] = self.datamodule.reference_figures()
        finally:
            values["checkpoint_step"] = run_checkpoint(self.trainer).written_step
            if self.model.pretrained_record is not None:
                values["pretrained"] = self.model.pretrained_record
            self.folder.end(status, **values)
            self.folder.unlock()
        if status == "finished":
            print(describe_end(self.folder), flush=True)

    def _prepare_weights(self) -> None:
        """Load pretrained weights, or see whether the checkpoint to go on from can be restored."""
        found = self.decision.found
        if found is None:
            self.model.start_from_pretrained()
            return
        # The same configuration makes another model where the data has other classes by now.
        TrainedModel(found.path, found.checkpoint).check_fit(self.model)
        check_restorable(found, self.trainer, own=self.decision.step is Step.RESUME)

    def _train(self) -> None:
        if self.trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()
            self.compilation_seconds = warm_up(self.model.backbone.operations)
        path = hand_over(self.decision.found, self.trainer)
        self.decision = Decision(self.decision.step)  # what has been read is needed once only
        try:
            self.trainer.fit(self.model, datamodule=self.datamodule, ckpt_path=path)
        except Interrupted as interruption:
            if self.is_first_process:
                print(interruption)
            self.exit_code = interruption.exit_code

    def _evaluate(self) -> None:
        trained, changed = self._load_weights()
        started = time.monotonic()
        run = self.trainer.test if self.subcommand == "test" else self.trainer.validate
        run(self.model, datamodule=self.datamodule, verbose=False)
        if not self.trainer.is_global_zero:
            return
        prefix = "test/" if self.subcommand == "test" else "val/"
        metrics = recorded({name.removeprefix(prefix): value for name, value in metrics_of(self.trainer).items()})
        content = {
            "metrics": metrics,
            "primary_metric": self.model.primary_metric._asdict(),
            "checkpoint": str(trained.path),
            "step": trained.global_step,
            "changed": changed,
            "data": self.run_config["data"],
            "parameters": number_of_parameters(self.model),
            "seconds": round(time.monotonic() - started, 3),
        }
        suffix = "" if trained.path == self.folder.last_checkpoint else f"-{trained.path.stem}"
        result = write_result(self.folder.path / f"{self.subcommand}{suffix}.json", content)
        print(f"{self.subcommand} of {trained.path}:")
        print("\n".join(metric_lines(metrics)))
        print(f"written to {result}")

    def _predict(self) -> None:
        self._load_weights()
        predict(self.model, self.datamodule, self.trainer, self.options, self.folder.path / "predictions")

    def _load_weights(self) -> tuple[TrainedModel, list[str]]:
        """Load the checkpoint's weights; the configuration in use stays the user's.

        Returns:
            The checkpoint, and where the configuration differs from the one that it was trained with.
        """
        trained = self.trained
        assert trained is not None
        trained.check_fit(self.model)
        changed = [
            difference for section in ("model", "data") for difference in trained.differences(self.run_config, section)
        ]
        for difference in changed:
            print(f"note: {trained.path} was trained with another {difference}; the second value is used")
        if trained.data_state(type(self.datamodule)) is None:
            print(
                f"note: {trained.path} is of an earlier version and doesn't know its classes or vocabulary: they are "
                "read from the data as configured"
            )
        self.model.load_state_dict(trained.content["state_dict"])
        return trained, changed

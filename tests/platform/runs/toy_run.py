"""A small training run with everything that randomness and state can hide in; also a program, to be killed.

python toy_run.py RUN_FOLDER OPTIONS_AS_JSON
"""

import dataclasses
import json
import logging
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, LearningRateMonitor
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy

from mambarium.platform.data.core.order import EvaluationBatches, GlobalBatches, TrainingBatches
from mambarium.platform.position import Position
from mambarium.platform.randomness import sample_randomness
from mambarium.platform.runs.checkpoint_io import AtomicCheckpointIO
from mambarium.platform.runs.signals import Interrupted
from mambarium.platform.worker_signals import shield_worker
from mambarium.platform.runs.trainer_settings import exact_callbacks, exact_loggers, exact_trainer_settings
from mambarium.tasks.objective import PrimaryMetric

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message=".*does not have many workers.*")
warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")

SEED = 3


@dataclasses.dataclass
class Options:
    """What a test may vary."""

    total_batches: int = 13
    accumulate: int = 1
    num_workers: int = 0
    every_steps: int | None = None
    val_check_interval: int | float = 4
    max_steps: int = -1
    devices: int = 1
    dropout: float = 0.4
    validation_noise: float = 0.1
    plateau: bool = False
    ema: bool = False
    early_stopping: bool = False
    tensorboard: bool = False
    batch_norm: bool = False
    seconds_per_batch: float = 0.0
    learning_rate: float = 1e-2


class Clusters(Dataset):
    """Noisy points of three classes; the noise draws from all three global generators."""

    def __init__(self, size: int, noisy: bool) -> None:
        self.size, self.noisy = size, noisy

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, int]:
        pass_index, index = key
        clean = torch.randn(8, generator=torch.Generator().manual_seed(index)) + index % 3
        if not self.noisy:
            return clean, index % 3
        with sample_randomness(SEED, pass_index, index):
            return clean + 0.1 * torch.randn(8) + 0.1 * np.random.rand() + 0.1 * random.random(), index % 3


class Data(LightningDataModule):
    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        shares = GlobalBatches(26, 4, SEED, trainer.global_rank, trainer.world_size)
        batches = TrainingBatches(shares, self.options.total_batches, Position.of(trainer))
        return self._loader(Clusters(26, noisy=True), batches)

    def val_dataloader(self) -> DataLoader:
        batches = EvaluationBatches(13, 4, self.trainer.global_rank, self.trainer.world_size)
        return self._loader(Clusters(13, noisy=False), batches)

    def _loader(self, samples: Dataset, batches: Any) -> DataLoader:
        workers = self.options.num_workers
        return DataLoader(
            samples,
            batch_sampler=batches,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=shield_worker,
        )


class Toy(LightningModule):
    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options
        norm = nn.BatchNorm1d(16) if options.batch_norm else nn.LayerNorm(16)
        self.net = nn.Sequential(nn.Linear(8, 16), norm, nn.Dropout(options.dropout), nn.Linear(16, 3))
        self.accuracy = MulticlassAccuracy(3, average="micro")

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.options.seconds_per_batch:
            time.sleep(self.options.seconds_per_batch)
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if self.options.seconds_per_batch:
            time.sleep(self.options.seconds_per_batch)
        # drawing random numbers in validation must not matter either
        logits = self.net(batch[0] + self.options.validation_noise * torch.randn(8))
        loss = nn.functional.cross_entropy(logits, batch[1])
        self.accuracy.update(logits, batch[1])
        self.log("val/accuracy", self.accuracy, on_epoch=True)
        self.log("val/loss", loss, on_epoch=True, batch_size=len(batch[1]), sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), self.options.learning_rate)
        if self.options.plateau:
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.3, factor=0.7)
            frequency = int(self.options.val_check_interval) * self.options.accumulate
            schedule = {
                "scheduler": plateau,
                "monitor": "val/loss",
                "interval": "step",
                "frequency": frequency,
            }
        else:
            total = self.trainer.estimated_stepping_batches
            decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (total + 1))
            schedule = {"scheduler": decay, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


class BatchCounter(Callback):
    """A user's callback with state that changes when a batch begins."""

    def __init__(self) -> None:
        self.begun = self.validations_begun = 0

    def on_train_batch_start(self, *args: Any) -> None:
        self.begun += 1

    def on_validation_start(self, *args: Any) -> None:
        self.validations_begun += 1

    def state_dict(self) -> dict[str, int]:
        return {"begun": self.begun, "validations_begun": self.validations_begun}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.begun, self.validations_begun = state_dict["begun"], state_dict["validations_begun"]


def fit(folder: Path, options: Options, *extra: Callback, start: Path | None = None) -> tuple[Trainer, Toy]:
    """Starts the run in the folder or goes on with it, from last.ckpt if no other start is given."""
    torch.manual_seed(SEED)
    module = Toy(options)
    torch.manual_seed(time.time_ns() % 2**31)  # whatever generators hold at the start must not matter
    callbacks = exact_callbacks(
        folder / "checkpoints",
        SEED,
        PrimaryMetric("accuracy", "max"),
        options.val_check_interval,
        every_steps=options.every_steps,
    )
    position = callbacks[0]
    assert isinstance(position, Position)
    loggers = exact_loggers(folder, position)
    if options.early_stopping:
        callbacks.append(EarlyStopping("val/loss", patience=0, min_delta=0.5))
    if options.ema:
        callbacks.append(EMAWeightAveraging(decay=0.8))
    trainer = Trainer(
        **exact_trainer_settings(
            {
                "accumulate_grad_batches": options.accumulate,
                "max_steps": options.max_steps,
                "devices": options.devices,
                "strategy": "ddp" if options.devices > 1 else "auto",
                "log_every_n_steps": 2,
            }
        ),
        accelerator="cpu",
        plugins=[AtomicCheckpointIO()],
        callbacks=[*callbacks, LearningRateMonitor("step"), BatchCounter(), *extra],
        logger=loggers if options.tensorboard else loggers[:1],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    last = folder / "checkpoints" / "last.ckpt"
    trainer.fit(module, datamodule=Data(options), ckpt_path=start or (last if last.exists() else None))
    return trainer, module


class SelfSignal(Callback):
    """Signals this process in the n-th call of a hook, as if from outside; of several processes only one."""

    def __init__(self, hook: str, call: int, signal_number: int, rank: int = 0) -> None:
        self.remaining, self.signal_number, self.rank = call, signal_number, rank
        setattr(self, hook, self._count)

    def _count(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self.remaining -= 1
        if self.remaining == 0 and trainer.global_rank == self.rank:
            os.kill(os.getpid(), self.signal_number)


def main(folder: str, options: str) -> int:
    values = json.loads(options)
    extra = [SelfSignal(*values.pop("signal"))] if "signal" in values else []
    try:
        fit(Path(folder), Options(**values), *extra)
    except Interrupted as interruption:
        print(interruption, file=sys.stderr)
        return interruption.exit_code
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    sys.exit(main(*sys.argv[1:]))

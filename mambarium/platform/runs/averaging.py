"""What an average of the weights is before it has begun."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mambarium.private_names.lightning import averaged_model


class AverageBeforeItsStart(Callback):
    """Lets the average of a `WeightAveraging` that begins later be the current weights until then.

    Lightning's holds a copy of the model as it was before training until its first update. It would validate that copy,
    put it into checkpoints as the model's weights, and leave it behind where the run ends before
    `update_starting_at_step`.

    Belongs before every WeightAveraging among the callbacks.
    """

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._follow(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._follow(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._follow(trainer, pl_module)

    @staticmethod
    def _follow(trainer: Trainer, pl_module: LightningModule) -> None:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by Trainer's connectors, unseen by mypy
        for callback in callbacks:
            average = averaged_model(callback)
            if average is not None and average.n_averaged == 0:
                average.module.load_state_dict(pl_module.state_dict())

"""Classes that a configuration names: what they are, and nulls among their arguments."""

from typing import Any

import pytest

from mambarium.errors import InputError
from mambarium.platform.cli.configuration.allowed_imports import check_classes


def named(class_path: str, **init_args: Any) -> dict[str, Any]:
    return {"trainer": {"callbacks": [{"class_path": class_path, "init_args": init_args}]}}


# MultiStepLR and WandbLogger name types that only a type checker imports.
@pytest.mark.parametrize(
    "config",
    [
        named("torch.optim.lr_scheduler.MultiStepLR", milestones=[1, 2]),
        named("lightning.pytorch.loggers.WandbLogger", name=None, project="lightning_logs"),
        named("lightning.pytorch.callbacks.ModelCheckpoint", dirpath=None, save_top_k=1),
        named("mambarium.backbones.Vim", width=8),
    ],
)
def test_classes_are_taken_whatever_their_types_name(config: dict[str, Any]) -> None:
    check_classes(config)


def test_a_null_is_refused_where_the_type_has_none() -> None:
    message = r"^trainer\.callbacks\[0\]\.depth: expected int, found null; give a value or leave the line out$"
    config = named("mambarium.backbones.Vim", width=8, depth=None)
    with pytest.raises(InputError, match=message):
        check_classes(config)
    check_classes(config, ["trainer.callbacks[0].depth"])


def test_a_function_is_no_class() -> None:
    with pytest.raises(InputError, match=r"^trainer\.callbacks\[0\]\.class_path: os\.system is no class"):
        check_classes(named("os.system", command="true"))

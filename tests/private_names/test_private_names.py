"""What an upgrade of a dependency may have taken away: each test is named after it."""

import signal
from collections.abc import Callable

import datasets
import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import DeviceStatsMonitor, EarlyStopping, Timer, WeightAveraging
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import subprocess_script
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mambarium.private_names import lightning as lightnings
from mambarium.private_names import torch as torchs
from mambarium.private_names.datasets import content_key
from mambarium.private_names.torchvision import BalancedPositiveNegativeSampler, BoxCoder, Matcher


class Records(LightningModule):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.by_the_command_line = lightnings.is_built_by_the_command_line()


def test_given_hyperparameters() -> None:
    assert not Records().by_the_command_line
    quiet = {"accelerator": "cpu", "logger": False, "barebones": True}
    command = LightningCLI(Records, args=[], run=False, trainer_defaults=quiet, save_config_callback=None)
    assert command.model.by_the_command_line


def test_optimizer_handles_unscaling() -> None:
    parameters = [nn.Parameter(torch.zeros(1))]
    assert lightnings.optimizer_unscales_gradients(torch.optim.AdamW(parameters, fused=True))
    assert not lightnings.optimizer_unscales_gradients(torch.optim.AdamW(parameters))


@pytest.mark.parametrize(("method", "expected"), [("popen", True), ("fork", False)])
def test_start_method(method: str, expected: bool) -> None:
    assert lightnings.starts_the_command_again(DDPStrategy(start_method=method)) == expected


def test_signal_connector() -> None:
    trainer = Trainer(accelerator="cpu", logger=False, barebones=True)
    connector = trainer._signal_connector
    before = signal.getsignal(signal.SIGTERM)
    try:
        connector.register_signal_handlers()
        assert connector._original_handlers
        lightnings.drop_signal_handlers(trainer)
        handlers = signal.getsignal(signal.SIGTERM)
        connector.teardown()
        assert signal.getsignal(signal.SIGTERM) is handlers, "nothing is put back"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_arguments_of_callbacks() -> None:
    assert lightnings.watches_the_cpu(DeviceStatsMonitor()) and not lightnings.watches_the_cpu(
        DeviceStatsMonitor(False)
    )
    assert lightnings.checks_after_epochs(EarlyStopping("loss", check_on_train_epoch_end=True))
    assert not lightnings.checks_after_epochs(EarlyStopping("loss"))
    assert lightnings.looks_after_epochs(Timer(interval="epoch")) and not lightnings.looks_after_epochs(Timer())


def test_average_model() -> None:
    averaging = WeightAveraging()
    assert lightnings.averaged_model(averaging) is None
    averaging.setup(Trainer(accelerator="cpu", logger=False, barebones=True), Records(), "fit")
    assert lightnings.averaged_model(averaging).n_averaged == 0
    assert lightnings.averaged_model(Timer()) is None


@pytest.mark.parametrize("name", ["_prepare_subcommand_parser", "_parse_ckpt_path", "_run_subcommand"])
def test_methods_of_the_command_line(name: str) -> None:
    assert callable(getattr(LightningCLI, name))


def test_launcher() -> None:
    launcher = subprocess_script._SubprocessScriptLauncher(LightningEnvironment(), 1, 1)
    assert lightnings.starts_processes_by_command(launcher) and not lightnings.starts_processes_by_command(None)
    before = subprocess_script._launch_process_observer
    with lightnings.processes_unwatched():
        assert subprocess_script._launch_process_observer is not before
    assert subprocess_script._launch_process_observer is before


def test_fingerprint() -> None:
    rows = datasets.Dataset.from_dict({"text": ["a", "b"]})
    assert content_key(rows) and content_key(rows) != content_key(rows.select([1]))


def test_schema() -> None:
    @torch.library.custom_op("mambarium_tests::double", mutates_args=())
    def double(value: torch.Tensor) -> torch.Tensor:
        return 2 * value

    assert [argument.name for argument in torchs.operation_schema(double).arguments] == ["value"]


def test_forward_level() -> None:
    assert not torchs.is_in_forward_mode()
    with torch.autograd.forward_ad.dual_level():
        assert torchs.is_in_forward_mode()


def test_mark_for_dynamo() -> None:
    calls = []

    @torchs.keep_as_constant_in_graphs
    def index() -> torch.Tensor:
        calls.append(torch.compiler.is_compiling())
        return torch.arange(3)

    compiled = torch.compile(lambda x: x[index()], backend="eager", fullgraph=True)
    assert compiled(torch.tensor([5, 6, 7, 8])).tolist() == [5, 6, 7] and calls


def test_batch_norms() -> None:
    kinds: list[Callable[[int], nn.Module]] = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm]
    assert all(isinstance(kind(2), torchs.BatchNorms) for kind in kinds)
    assert isinstance(nn.InstanceNorm2d(2), torchs.RunningNorms) and not isinstance(
        nn.LayerNorm(2), torchs.RunningNorms
    )


def test_functorch_transforms() -> None:
    seen = []
    torch.func.vmap(lambda x: seen.append(torchs.functional_transforms_are_active()) or x)(torch.zeros(2))
    assert seen == [True] and not torchs.functional_transforms_are_active()


def test_forward_mode() -> None:
    seen = []
    inputs = (torch.zeros(2),)
    torch.func.jvp(lambda x: seen.append(torchs.is_in_forward_mode()) or x, inputs, inputs)
    assert seen == [True] and not torchs.is_in_forward_mode()


def test_dispatch_mode() -> None:
    with FlopCounterMode(display=False):
        assert torchs.is_in_dispatch_mode()
    assert not torchs.is_in_dispatch_mode()


def test_operation_schema() -> None:
    operation = torch.library.custom_op(
        "mambarium_test::same", lambda x: x.clone(), mutates_args=(), schema="(Tensor x) -> Tensor"
    )
    schema = torchs.operation_schema(operation)
    assert schema.name == "mambarium_test::same" and [argument.name for argument in schema.arguments] == ["x"]


def test_rebuilders_of_numpy() -> None:
    reconstruct, scalar = torchs.NUMPY_REBUILDERS
    assert reconstruct(np.ndarray, (0,), b"b").shape == (0,)
    assert scalar(np.dtype("<i4"), b"\x07\0\0\0") == 7


def test_parts_of_detectors() -> None:
    quality = torch.tensor([[0.9, 0.5, 0.1]])
    assert Matcher(0.7, 0.3)(quality).tolist() == [0, Matcher.BETWEEN_THRESHOLDS, Matcher.BELOW_LOW_THRESHOLD]
    positive, negative = BalancedPositiveNegativeSampler(4, 0.5)([torch.tensor([1.0, 1, 1, 0, 0, 0])])
    assert (int(positive[0].sum()), int(negative[0].sum())) == (2, 2)
    box = torch.tensor([[1.0, 2, 5, 9]])
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    assert torch.allclose(coder.decode(coder.encode([box], [box + 1])[0], [box + 1]).reshape(1, 4), box)

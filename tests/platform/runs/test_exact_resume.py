"""Runs stopped anywhere and gone on with end bit for bit as if they had never been stopped."""

from stopped_runs import Crash, CrashAt
import math
import random
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from tensorboard.compat.proto.event_pb2 import Event

from mambarium.errors import InputError
from mambarium.platform.runs.signals import Interrupted

pytestmark = pytest.mark.thorough


HOOKS = (
    "on_train_batch_start",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_validation_end",
    "on_train_epoch_end",
    "on_train_end",
)


def go_on(toy, folder: Path, options, *extra: Callback) -> bool:
    """One process of a chain; whether it finished."""
    try:
        toy.fit(folder, options, *extra)
    except (Interrupted, Crash):
        return False
    return True


def straight(toy, folder: Path, options) -> Path:
    toy.fit(folder, options)
    return folder


def random_interruption(toy, chance: random.Random) -> Callback:
    hook, call = chance.choice(HOOKS[:7]), chance.randint(1, 5)
    if chance.random() < 0.5:
        return CrashAt(hook, call)
    return toy.SelfSignal(hook, call, chance.choice([signal.SIGINT, signal.SIGTERM]))


def random_chain(toy, folder: Path, options, chance: random.Random, most: int = 5) -> None:
    for _ in range(chance.randint(2, most)):
        if go_on(toy, folder, options, random_interruption(toy, chance)):
            return
    assert go_on(toy, folder, options)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_stopped_after_every_batch(toy, tmp_path, differences, accumulate):
    options = toy.Options(accumulate=accumulate)
    expected = straight(toy, tmp_path / "straight", options)
    starts = 1
    while not go_on(toy, tmp_path / "chain", options, toy.SelfSignal("on_train_batch_end", 1, signal.SIGTERM)):
        starts += 1
    # one window of accumulation each time; after the last one the validation that follows it is left
    assert starts == math.ceil(13 / accumulate) + 1
    assert differences(expected, tmp_path / "chain") == []


@pytest.mark.parametrize("hook", HOOKS)
def test_crashed_in_every_hook(toy, tmp_path, differences, hook):
    options = toy.Options(every_steps=1)
    expected = straight(toy, tmp_path / "straight", options)
    for call in (2, 1, 3):
        if go_on(toy, tmp_path / "chain", options, CrashAt(hook, call)):
            break
    else:
        assert go_on(toy, tmp_path / "chain", options)
    assert differences(expected, tmp_path / "chain") == []


@pytest.mark.parametrize("call", [1, 2, 3, 4, 12])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_stopped_in_validation(toy, tmp_path, differences, accumulate, call):
    options = toy.Options(accumulate=accumulate, val_check_interval=2)
    expected = straight(toy, tmp_path / "straight", options)
    interruption = toy.SelfSignal("on_validation_batch_start", call, signal.SIGINT)
    assert not go_on(toy, tmp_path / "chain", options, interruption)
    assert go_on(toy, tmp_path / "chain", options)
    assert differences(expected, tmp_path / "chain") == []


@pytest.mark.parametrize(
    "variant",
    [
        {"max_steps": 13},
        {"max_steps": 6, "accumulate": 2, "total_batches": 12},
        {"val_check_interval": 0.5},
        {"plateau": True, "val_check_interval": 2},
        {"plateau": True, "accumulate": 2, "val_check_interval": 1},
        {"ema": True},
        {"early_stopping": True, "val_check_interval": 2},
        {"batch_norm": True, "every_steps": 3},
        {"every_steps": 1, "val_check_interval": 100},
        pytest.param({"num_workers": 2, "every_steps": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_random_chain(toy, tmp_path, differences, variant):
    options = toy.Options(**variant)
    expected = straight(toy, tmp_path / "straight", options)
    random_chain(toy, tmp_path / "chain", options, random.Random(str(variant)))
    assert differences(expected, tmp_path / "chain") == []


class Sketch(Callback):
    """Draws and writes in validation, as callbacks that show samples do."""

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        board = trainer.loggers[1].experiment
        weights = pl_module.net[0].weight.detach()
        board.add_image("weights", weights.clamp(0, 1)[None], trainer.global_step)
        board.add_text("bias", str(pl_module.net[0].bias.tolist()), trainer.global_step)


@pytest.mark.parametrize("hook, call", [("on_validation_end", 2), ("on_train_batch_start", 9), ("on_train_end", 1)])
def test_tensorboard_is_the_same_after_a_chain(toy, tmp_path, differences, hook, call):
    """Curves, pictures and texts: those of a counted validation stay, those of one that is done again come once."""
    options = toy.Options(tensorboard=True, every_steps=3)
    toy.fit(tmp_path / "straight", options, Sketch())
    assert not go_on(toy, tmp_path / "chain", options, Sketch(), CrashAt(hook, call))
    go_on(toy, tmp_path / "chain", options, Sketch(), CrashAt("on_train_batch_start", 1))
    assert go_on(toy, tmp_path / "chain", options, Sketch())
    assert differences(tmp_path / "straight", tmp_path / "chain") == []
    kinds = {value.tag for content in differences.events(tmp_path / "chain")["."] for value in summary(content)}
    assert {"train/loss", "val/accuracy", "pass", "weights", "bias/text_summary"} <= kinds


def summary(content: bytes) -> list:
    return list(Event.FromString(content).summary.value)


@pytest.mark.parametrize(
    "interval, plateau, message",
    [("epoch", False, "would be stepped once"), ("step", True, "interval 'step' and frequency 4")],
)
def test_schedules_that_miss_validations_are_refused(toy, tmp_path, monkeypatch, interval, plateau, message):
    original = toy.Toy.configure_optimizers

    def with_bad_schedule(module):
        configured = original(module)
        configured["lr_scheduler"].update(interval=interval, frequency=3)
        return configured

    monkeypatch.setattr(toy.Toy, "configure_optimizers", with_bad_schedule)
    with pytest.raises(InputError, match=message):
        toy.fit(tmp_path, toy.Options(plateau=plateau))


def test_last_validation_is_owed_when_all_steps_are_done(toy, tmp_path, differences):
    """Lightning alone would take the run for finished and never validate."""
    options = toy.Options(max_steps=13, val_check_interval=100)
    expected = straight(toy, tmp_path / "straight", options)
    for call in (1, 3):
        assert not go_on(toy, tmp_path / "chain", options, CrashAt("on_validation_batch_start", call))
    trainer, _ = toy.fit(tmp_path / "chain", options)
    assert trainer.global_step == 13
    assert differences(expected, tmp_path / "chain") == []


def test_finished_run_stays_as_it_is(toy, tmp_path, differences):
    options = toy.Options(early_stopping=True, val_check_interval=2)
    expected = straight(toy, tmp_path / "straight", options)
    steps = torch.load(expected / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert steps < 13, "the run must stop early for this test"
    toy.fit(tmp_path / "again", options)
    toy.fit(tmp_path / "again", options)
    assert differences(expected, tmp_path / "again") == []


def test_second_signal_stops_at_once_and_leaves_the_checkpoint(toy, tmp_path, differences):
    options = toy.Options(every_steps=1, accumulate=2)
    expected = straight(toy, tmp_path / "straight", options)
    first = toy.SelfSignal("on_train_batch_start", 5, signal.SIGINT)
    second = toy.SelfSignal("on_before_optimizer_step", 3, signal.SIGINT)
    with pytest.raises(Interrupted, match="at once"):
        toy.fit(tmp_path / "chain", options, first, second)
    last = torch.load(tmp_path / "chain" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["callbacks"]["Position"]["finished_batches"] == 4
    assert go_on(toy, tmp_path / "chain", options)
    assert differences(expected, tmp_path / "chain") == []


@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_a_signal_that_a_scheduler_repeats_is_one_wish(toy, tmp_path, number):
    number = signal.Signals[number]
    repeated = [toy.SelfSignal(hook, 5, number) for hook in ("on_train_batch_start", "on_before_optimizer_step")]
    earlier = signal.signal(number, signal.SIG_DFL)  # the tests may run under nohup, which ignores SIGHUP
    try:
        with pytest.raises(Interrupted, match=r"after step 5, .*last\.ckpt is written") as caught:
            toy.fit(tmp_path, toy.Options(), *repeated, toy.SelfSignal("on_train_batch_end", 5, signal.SIGINT))
    finally:
        signal.signal(number, earlier)
    assert caught.value.exit_code == 128 + number
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 5


def test_a_closed_terminal_does_not_stop_a_run_under_nohup(toy, tmp_path):
    earlier = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert go_on(toy, tmp_path, toy.Options(), toy.SelfSignal("on_train_batch_start", 5, signal.SIGHUP))
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, earlier)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_exit_code_and_handlers(toy, tmp_path, number, code):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match=r"after step 3.*same command") as caught:
        toy.fit(tmp_path, toy.Options(), toy.SelfSignal("on_train_batch_start", 3, number))
    assert caught.value.exit_code == code
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_diverged_run_stops_and_keeps_a_finite_checkpoint(toy, tmp_path):
    with pytest.raises(InputError, match=r"NaN or infinite at step \d+"):
        toy.fit(tmp_path, toy.Options(learning_rate=1e30, every_steps=1))
    for path in (tmp_path / "checkpoints").glob("*.ckpt"):
        weights = torch.load(path, weights_only=True)["state_dict"]
        assert all(torch.isfinite(value).all() for value in weights.values())


class Poison(Callback):
    """Puts a value into the state of a run after its third batch; a mask of infinities is there from the start."""

    def __init__(self, what: str, value: float) -> None:
        self.what, self.value = what, value

    def setup(self, trainer, pl_module, stage) -> None:
        pl_module.register_buffer("mask", torch.full((2,), -math.inf))
        pl_module.register_buffer("statistics", torch.zeros(2))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if batch_idx == 2:
            if self.what == "buffer":
                pl_module.statistics[1] = self.value
            elif self.what == "weight":
                pl_module.net[0].weight.data[0, 0] = self.value
            elif self.what == "optimiser":
                next(iter(trainer.optimizers[0].state.values()))["exp_avg_sq"][0] = self.value


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "what, said", [("buffer", "statistics"), ("weight", "net.0.weight"), ("optimiser", "exp_avg_sq")]
)
def test_nothing_infinite_reaches_a_checkpoint(toy, tmp_path, what, said, value):
    with pytest.raises(InputError, match=rf"{said} became NaN or infinite at step 3"):
        toy.fit(tmp_path, toy.Options(every_steps=1), Poison(what, value))
    kept = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 2 and kept["state_dict"]["mask"].isinf().all()


def test_the_checkpoint_before_the_last_is_kept(toy, tmp_path, differences):
    """Runs go on from it as exactly, and what can't be read is kept too."""
    options = toy.Options(every_steps=2, tensorboard=True)
    expected = straight(toy, tmp_path / "straight", options)
    assert not go_on(toy, tmp_path / "chain", options, CrashAt("on_train_batch_end", 10))
    checkpoints = tmp_path / "chain" / "checkpoints"
    last, previous = (checkpoints / name for name in ("last.ckpt", "previous.ckpt"))
    steps = [torch.load(path, weights_only=True)["global_step"] for path in (previous, last)]
    assert steps == [8, 8] and not previous.samefile(last), "before and after the validation"
    last.write_bytes(b"damaged")
    toy.fit(tmp_path / "chain", options, start=previous)
    assert (checkpoints / "last.damaged.ckpt").read_bytes() == b"damaged"
    assert differences(expected, tmp_path / "chain") == []
    assert not previous.samefile(last)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_many_random_chains(toy, tmp_path, differences, accumulate, workers):
    options = toy.Options(accumulate=accumulate, num_workers=workers, every_steps=2, val_check_interval=2)
    expected = straight(toy, tmp_path / "straight", options)
    for number in range(8 if workers else 40):
        random_chain(toy, tmp_path / str(number), options, random.Random(number), most=7)
        assert differences(expected, tmp_path / str(number)) == [], number


@pytest.mark.slow
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_stopped_or_crashed_at_every_call_of_every_hook(toy, tmp_path, differences, accumulate, hook):
    options = toy.Options(accumulate=accumulate, every_steps=1, val_check_interval=2)
    expected = straight(toy, tmp_path / "straight", options)
    for kind, interruption in (
        ("crash", lambda call: CrashAt(hook, call)),
        ("stop", lambda call: toy.SelfSignal(hook, call, signal.SIGTERM)),
    ):
        for call in range(1, 40):
            folder = tmp_path / f"{kind}{call}"
            if go_on(toy, folder, options, interruption(call)):
                break
            assert go_on(toy, folder, options)
            assert differences(expected, folder) == [], (kind, call)

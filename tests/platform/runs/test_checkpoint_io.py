"""Checkpoint files: whole or absent, damage always found."""

from stopped_runs import bytes_read
import os
import re
import subprocess
import sys
import zipfile

import pytest
import torch

from mambarium.errors import InputError
from mambarium.files import duplicate_atomically, remove_stale_temporaries, set_aside
from mambarium.platform.runs.checkpoint_io import AtomicCheckpointIO, DamagedCheckpointError, intact_content

pytestmark = pytest.mark.thorough

CONTENT = {"state_dict": {"weight": torch.arange(50.0), "bias": torch.tensor(2.5)}, "step": 7, "name": "a"}


@pytest.fixture
def path(tmp_path):
    target = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(CONTENT, target)
    return target


def load(path):
    return AtomicCheckpointIO().load_checkpoint(path)


def is_content(loaded) -> bool:
    weights = loaded["state_dict"]
    return (
        torch.equal(weights["weight"], CONTENT["state_dict"]["weight"])
        and torch.equal(weights["bias"], CONTENT["state_dict"]["bias"])
        and (loaded["step"], loaded["name"]) == (7, "a")
    )


def test_round_trip_leaves_one_file(path):
    assert is_content(load(path))
    assert [entry.name for entry in path.parent.iterdir()] == ["last.ckpt"]
    assert is_content(torch.load(path, weights_only=True)), "torch alone must read it too"


def test_every_flipped_byte_is_found(path):
    intact = path.read_bytes()
    for index in range(len(intact)):
        damaged = bytearray(intact)
        damaged[index] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(DamagedCheckpointError):
            intact_content(path)


def test_file_of_another_program(path):
    torch.save(CONTENT, path)
    assert is_content(load(path))
    intact = path.read_bytes()
    record = intact.index(torch.arange(50.0).numpy().tobytes())
    path.write_bytes(intact[: record + 9] + b"x" + intact[record + 10 :])
    with pytest.raises(InputError, match="is damaged"):
        load(path)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated(path, part):
    size = path.stat().st_size
    os.truncate(path, int(part * size))
    with pytest.raises(InputError, match=r"last\.ckpt is damaged.*no intact checkpoint") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_message_names_intact_neighbours(path):
    AtomicCheckpointIO().save_checkpoint(CONTENT, path.with_name("best.ckpt"))
    path.with_name("broken.ckpt").write_bytes(b"PK")
    os.truncate(path, 100)
    with pytest.raises(InputError, match=r"intact beside it: best\.ckpt; copy"):
        load(path)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("weights")
    with pytest.raises(InputError, match="damaged or no checkpoint"):
        load(tmp_path / "text.ckpt")
    with zipfile.ZipFile(tmp_path / "archive.ckpt", "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(InputError, match="is no checkpoint"):
        load(tmp_path / "archive.ckpt")


class Foreign:
    pass


def test_foreign_objects_are_refused(path):
    torch.save({"hyper_parameters": Foreign()}, path.with_name("foreign.ckpt"))
    with pytest.raises(InputError, match="holds foreign objects"):
        load(path.with_name("foreign.ckpt"))
    with pytest.raises(InputError, match="would run code"):
        AtomicCheckpointIO().load_checkpoint(path, weights_only=False)


def test_unloadable_checkpoint_is_refused_when_written(path):
    with pytest.raises(InputError, match=r"could not be loaded again.*plain numbers"):
        AtomicCheckpointIO().save_checkpoint({"hyper_parameters": Foreign()}, path)
    assert is_content(load(path))


SAVE_ON_A_FULL_DISK = """
import resource, signal, sys, torch
from mambarium.errors import InputError
from mambarium.platform.runs.checkpoint_io import AtomicCheckpointIO

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    AtomicCheckpointIO().save_checkpoint({"weight": torch.rand(int(sys.argv[2]))}, sys.argv[1])
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize("numbers", [2000, 200_000])
def test_full_disk_keeps_the_old_checkpoint(path, numbers):
    # In a process of its own: the limit on the size of files holds for pytest's own output too.
    command = [sys.executable, "-c", SAVE_ON_A_FULL_DISK, str(path), str(numbers)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert re.search(r"cannot write checkpoint .*last\.ckpt \(.*free space", run.stdout), run.stdout
    assert is_content(load(path))
    assert [entry.name for entry in path.parent.iterdir()] == ["last.ckpt"]


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(InputError, match="cannot write checkpoint"):
        AtomicCheckpointIO().save_checkpoint(CONTENT, tmp_path / "checkpoints" / "last.ckpt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(path):
    path.parent.chmod(0o500)
    try:
        with pytest.raises(InputError, match=r"cannot write checkpoint.*Permission"):
            AtomicCheckpointIO().save_checkpoint(CONTENT, path)
    finally:
        path.parent.chmod(0o700)


@pytest.mark.parametrize("hard_links", [True, False])
def test_duplicate(path, monkeypatch, hard_links):
    if not hard_links:
        monkeypatch.setattr(os, "link", _no_links)
    best = path.with_name("best.ckpt")
    for _ in range(2):
        duplicate_atomically(path, best)
        assert is_content(load(best))
    AtomicCheckpointIO().save_checkpoint({"step": 8}, path)
    assert is_content(load(best)) and load(path) == {"step": 8}
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["best.ckpt", "last.ckpt"]


def _no_links(*args):
    raise PermissionError("no hard links on this file system")


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="only Linux counts what a process reads")
def test_reading_reads_a_file_once_and_writing_nothing(path):
    files, content = AtomicCheckpointIO(), {"weight": torch.rand(1_000_000)}
    assert bytes_read(lambda: files.save_checkpoint(content, path)) < 10_000
    size = path.stat().st_size
    assert size > 4_000_000
    assert size <= bytes_read(lambda: files.load_checkpoint(path)) < 1.01 * size
    loaded = files.load_checkpoint(path)
    files.hand_over(path, loaded)
    assert bytes_read(lambda: files.load_checkpoint(path) is loaded) < 10_000
    assert files.load_checkpoint(path) is not loaded, "what was handed over is not kept"


def test_the_replaced_file_is_kept_under_another_name(path):
    previous = path.with_name("previous.ckpt")
    for step in (8, 9):
        AtomicCheckpointIO().save_checkpoint({"step": step}, path, storage_options=previous)
    assert (load(path), load(previous)) == ({"step": 9}, {"step": 8})
    best = path.with_name("best.ckpt")
    AtomicCheckpointIO().save_checkpoint({"step": 10}, best)
    duplicate_atomically(best, path, previous)
    assert (load(path), load(previous)) == ({"step": 10}, {"step": 9})
    assert path.samefile(best) and not path.samefile(previous)


def test_what_is_set_aside_overwrites_nothing(path):
    for content in ("first", "second"):
        path.write_text(content)
        set_aside(path)
    set_aside(path)
    kept = {entry.name: entry.read_text() for entry in path.parent.iterdir()}
    assert kept == {"last.damaged.ckpt": "first", "last.damaged-2.ckpt": "second"}


def test_stale_temporaries_go(path):
    (path.parent / ".last.ckpt.123.tmp").write_bytes(b"half")
    remove_stale_temporaries(path.parent)
    remove_stale_temporaries(path.parent / "missing")
    assert [entry.name for entry in path.parent.iterdir()] == ["last.ckpt"] and intact_content(path)

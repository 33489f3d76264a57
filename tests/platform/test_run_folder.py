"""A run's record and configuration on disk, and how two configurations differ."""

from pathlib import Path

import pytest

from mambarium.platform.atomic_files import write_atomically
from mambarium.platform.run_folder import config_differences


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    record = tmp_path / "run" / "run.json"
    write_atomically(record, "old ä\n")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(record, "half of a character: \ud800")
    assert record.read_bytes() == "old ä\n".encode()
    assert list(record.parent.iterdir()) == [record]


def test_a_key_that_one_configuration_lacks_is_said_to_be_missing() -> None:
    old, new = {"data": {"turns": 1, "gone": 2}}, {"data": {"turns": 1, "masks": None}}
    assert config_differences(old, new) == ["data.gone: 2 -> (not there)", "data.masks: (not there) -> null"]
    assert config_differences(old, old) == []

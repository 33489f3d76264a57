"""A run's record and configuration on disk, and how two configurations differ."""

from pathlib import Path

import pytest

from mambarium.errors import InputError
from mambarium.files import write_atomically
from mambarium.platform.runs.run_folder import RunFolder, config_differences


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


@pytest.mark.parametrize(
    "content", [b"", b'{"status": "run', b"[1]", b"{}", b'{"a": 1}', b'{"status": 3, "parts": []}', b"\xff\xfe"]
)
def test_a_record_that_is_none_is_refused_not_taken_for_a_new_run(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(
        InputError, match=r"run\.json is not the record.*remove it, and the same command goes on"
    ) as caught:
        RunFolder(tmp_path).decide({}, "auto")
    assert "\n" not in str(caught.value)

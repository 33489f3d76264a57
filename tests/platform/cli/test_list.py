"""The command `list`."""

import pytest

from mambarium.platform.cli.commands import main


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "mambaout_f*"]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["variant", "parameters"]
    assert line.split()[:6] == ["mambaout_femto", "7,304,536", "224", "px", "1.15", "1.2"]
    assert main(["list", "nothing*"]) == 2
    assert "no variant is called 'nothing*'" in capsys.readouterr().err

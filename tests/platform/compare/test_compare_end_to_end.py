"""A comparison through the real command line: every cell trains, is tested, and stands in the table."""

import csv
from pathlib import Path

import pytest

from mambarium.platform.cli import main

pytestmark = pytest.mark.thorough

CONFIG = """
model:
  class_path: ImageClassification
  init_args:
    backbone: {class_path: Vim, init_args: {image_size: 8, patch_size: 4, width: 8, depth: 1, d_state: 2, dropout: 0.1}}
data: {class_path: Digits, init_args: {batch_size: 64, passes: 0.25}}
trainer: {accelerator: cpu}
"""
COMPARISON = """
name: both
seeds: [3]
tasks:
  digits: {config: digits.yaml, backbones: {vim: vim.yaml, mambaout: mambaout.yaml}, overrides: {data.passes: 0.5}}
"""


def test_two_backbones(tmp_path: Path, monkeypatch, capfd) -> None:
    (tmp_path / "digits.yaml").write_text(CONFIG)
    (tmp_path / "vim.yaml").write_text(
        "{class_path: Vim, init_args: {image_size: 8, patch_size: 4, width: 12, depth: 1}}"
    )
    (tmp_path / "mambaout.yaml").write_text(
        "{class_path: MambaOut, init_args: {depths: [1], widths: [8], stem_stride: 1}}"
    )
    (tmp_path / "both.yaml").write_text(COMPARISON)
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "--config", "both.yaml"]) == 0
    with (tmp_path / "runs/compare/both/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    accuracies = {row["backbone"]: float(row["value"]) for row in rows if row["metric"] == "accuracy"}
    assert set(accuracies) == {"vim", "mambaout"} and all(0 <= value <= 1 for value in accuracies.values())
    assert {row["status"] for row in rows} == {"finished"}
    assert all(int(row["parameters"]) > 0 and float(row["train_seconds"]) > 0 for row in rows)
    table = (tmp_path / "runs/compare/both/table.md").read_text()
    assert "vim" in table and "mambaout" in table

    checkpoints = sorted((tmp_path / "runs").rglob("last.ckpt"))
    written = [path.stat().st_mtime_ns for path in checkpoints]
    assert len(checkpoints) == 2
    capfd.readouterr()
    assert main(["compare", "--config", "both.yaml"]) == 0
    printed = capfd.readouterr().out
    for number, backbone in ((1, "vim"), (2, "mambaout")):
        assert f"cell {number} of 2: digits, {backbone}, seed 3: finished already, skipped" in printed
    assert [path.stat().st_mtime_ns for path in checkpoints] == written

"""Metrics of torchmetrics in a configuration."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

pytestmark = pytest.mark.thorough


def test_a_run_is_ranked_by_a_metric_of_its_yaml(tiny: Callable[..., int]) -> None:
    config = yaml.safe_load(Path("digits.yaml").read_text())
    metric = {"class_path": "torchmetrics.classification.MulticlassF1Score", "init_args": {"num_classes": 10}}
    config["model"]["init_args"] |= {"metrics": {"f1": metric}, "primary_metric": "f1"}
    Path("f1.yaml").write_text(yaml.safe_dump(config))
    assert tiny("fit", "--config", "f1.yaml") == 0
    best = torch.load("runs/f1/checkpoints/best.ckpt", weights_only=True)
    assert not [name for name in best["state_dict"] if "f1" in name or "metric" in name]
    assert "val/f1" in Path("runs/f1/metrics.csv").read_text().splitlines()[0]
    assert tiny("test", "--config", "f1.yaml") == 0

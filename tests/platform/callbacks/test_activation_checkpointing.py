"""Runs whose activations are computed anew end where others do."""

from pathlib import Path

import pytest
import torch

from mambarium.platform.cli import main

RUN = """
model:
  class_path: ImageClassification
  init_args:
    backbone: {class_path: Vim, init_args: {image_size: 8, patch_size: 4, width: 8, depth: 2, d_state: 2, dropout: 0.1}}
data: {class_path: Digits, init_args: {batch_size: 64}}
trainer:
  accelerator: cpu
  enable_progress_bar: false
  max_steps: 2
  callbacks:
    - class_path: lightning.pytorch.callbacks.EMAWeightAveraging
      init_args: {decay: 0.5}
"""
CALLBACK = "    - class_path: mambarium.platform.callbacks.ActivationCheckpointing\n"


@pytest.mark.thorough
def test_a_run_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plain.yaml").write_text(RUN)
    Path("recomputed.yaml").write_text(RUN + CALLBACK)
    weights = []
    for name in ("plain", "recomputed"):
        assert main(["fit", "--config", f"{name}.yaml"]) == 0
        checkpoint = torch.load(f"runs/{name}/checkpoints/last.ckpt", weights_only=True)
        weights.append(checkpoint["state_dict"])
    plain, recomputed = weights
    assert list(plain) == list(recomputed)
    for name, expected in plain.items():
        torch.testing.assert_close(recomputed[name], expected, msg=name)

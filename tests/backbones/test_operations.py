"""Which kernels a backbone says that it needs, so that training compiles these and no others."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mambarium.backbones import LSTM, LocalVim, Mamba, MambaOut, MambaVision, SequenceOnImages, Transformer, VMamba
from mambarium.backbones.contract import Backbone
from mambarium.kernels import causal_conv1d, grid_scan, selective_scan

TINY: dict[str, tuple[Callable[[], Backbone], set[Callable[..., Any]]]] = {
    "Mamba": (lambda: Mamba(width=8, depth=1), {causal_conv1d, selective_scan}),
    "Mamba on images": (lambda: SequenceOnImages(Mamba(width=8, depth=1)), {causal_conv1d, selective_scan}),
    "VMamba": (lambda: VMamba(depths=(1,), widths=(8,)), {grid_scan}),
    "MambaVision": (lambda: MambaVision(), {causal_conv1d, selective_scan}),
    "LocalVim": (lambda: LocalVim(), {causal_conv1d, selective_scan}),
    "MambaOut with a scan": (lambda: MambaOut(depths=(1,), widths=(8,), ssm=True), {selective_scan}),
    "MambaOut": (lambda: MambaOut(depths=(1,), widths=(8,)), set()),
    "LSTM": (lambda: LSTM(width=8), set()),
    "Transformer": (lambda: Transformer(width=64, depth=1), set()),
}


@pytest.mark.parametrize("name", TINY)
def test_a_backbone_names_the_operations_that_it_computes_with(name: str) -> None:
    build, expected = TINY[name]
    with torch.device("meta"):
        backbone = build()
    assert set(backbone.operations) == expected and len(backbone.operations) == len(expected)

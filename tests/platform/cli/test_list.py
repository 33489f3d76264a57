"""The command `list`."""

import pytest
import torch

from mambarium.backbones import from_variant
from mambarium.backbones.contract import SequenceBackbone, VisionBackbone
from mambarium.backbones.published.family import Counted, Family
from mambarium.backbones.variants import FAMILIES
from mambarium.platform.cli.commands import main
from mambarium.platform.cli.listing import IMAGE_SIZE, LENGTH
from mambarium.tasks import ImageClassification, LanguageModeling
from mambarium.tasks.compute import multiply_accumulates


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "mambaout_f*"]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["variant", "parameters"]
    assert line.split()[:6] == ["mambaout_femto", "7,304,536", "224", "px", "1.15", "1.2"]
    assert main(["list", "nothing*"]) == 2
    assert "no variant is called 'nothing*'" in capsys.readouterr().err


def counted(name: str, family: Family) -> Counted:
    """Count a variant's parameters, and its compute of one input of the published size."""
    figure = family.published.get(name)
    with torch.device("meta"):
        backbone = from_variant(name)
        if isinstance(backbone, VisionBackbone):
            size = figure.input_size if figure else IMAGE_SIZE
            task: ImageClassification | LanguageModeling = ImageClassification(backbone, 1000)
            example = torch.empty(1, 3, size, size)
        else:
            assert isinstance(backbone, SequenceBackbone)
            task = LanguageModeling(backbone, 50280)
            example = torch.zeros(1, figure.input_size if figure else LENGTH, dtype=torch.long)
        gmacs = sum(multiply_accumulates(task, example).values()) / 1e9
    return Counted(sum(parameter.numel() for parameter in task.parameters()), round(gmacs, 2))


def test_every_variant_has_a_size() -> None:
    for family in FAMILIES:
        assert set(family.counted) == set(family.variants)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("family", "name"),
    [
        pytest.param(family, name, id=name, marks=pytest.mark.slow if number else ())
        for family in FAMILIES
        for number, name in enumerate(family.variants)
    ],
)
def test_sizes_are_those_counted(family: Family, name: str) -> None:
    assert counted(name, family) == family.counted[name]

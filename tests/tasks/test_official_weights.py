""" "official" as `pretrained` is the address of the variant that the backbone is."""

import hashlib
from pathlib import Path

import pytest
import torch

from mambarium.backbones import LSTM, Backbone, MambaOut, SequenceOnImages, ViT, from_variant
from mambarium.backbones.published import known
from mambarium.backbones.published.family import Evaluation, Published, PublishedWeights
from mambarium.backbones.published.known import family_of, weights_of_variant
from mambarium.backbones.published.writing import official_weights
from mambarium.backbones.variants import FAMILIES, PUBLISHED, VARIANTS
from mambarium.errors import InputError
from mambarium.tasks import ImageClassification
from mambarium.tasks.export import published_head

pytestmark = pytest.mark.thorough


def on_meta(name: str) -> Backbone:
    with torch.device("meta"):
        return from_variant(name)


@pytest.mark.parametrize(
    "name", ["mamba_130m", "vim_tiny_stride8", "vmamba_tiny_s1l8", "mambavision_l2_512_21k", "deit_small"]
)
def test_a_variant_has_its_own_address(name: str) -> None:
    assert weights_of_variant(on_meta(name)) is PUBLISHED[name].weights


def test_image_and_window_sizes_and_drop_path_leave_it_the_variant() -> None:
    with torch.device("meta"):
        larger = VARIANTS["vim_tiny"](image_size=512, drop_path=0.3)
        windowed = VARIANTS["mambavision_t"](window_sizes=(112, 56))
    assert weights_of_variant(larger) is PUBLISHED["vim_tiny"].weights
    assert weights_of_variant(windowed) is PUBLISHED["mambavision_t"].weights


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LSTM(8, 1), "this LSTM is no published one; give a file"),
        (lambda: MambaOut(), "this MambaOut is no published one; give a file"),
        (lambda: ViT(224, 16, 192, 12, 4), "this ViT is no published one; give a file"),  # heads leave no trace
        (lambda: from_variant("transformer_125m"), "no weights of transformer_125m are published; give a file"),
        (
            lambda: from_variant("mambavision_b"),
            r"mambavision_b and mambavision_b_21k alike; give nvidia/\S+ or nvidia/",
        ),
    ],
)
def test_a_backbone_without_one_address_is_refused_in_one_line(build, message: str) -> None:
    with torch.device("meta"):
        backbone = build()
    with pytest.raises(InputError, match=f"^pretrained is official: .*{message}") as error:
        weights_of_variant(backbone)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_task_starts_from_what_the_address_holds(tmp_path: Path, monkeypatch, damaged: bool) -> None:
    url = "https://example.org/releases/%23v1/small.pth"
    task = ImageClassification(MambaOut((1, 1), (8, 12)), 5, pretrained="official")
    theirs = ImageClassification(MambaOut((1, 1), (8, 12)), 5)
    torch.save(official_weights(theirs.backbone, published_head(theirs.objective)), tmp_path / "small.pth")
    digest = hashlib.sha256((tmp_path / "small.pth").read_bytes()).hexdigest()
    asked: list[str] = []

    def download(address: str, destination: str, **_: object) -> None:
        asked.append(address)
        Path(destination).write_bytes((tmp_path / "small.pth").read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    weights = PublishedWeights(url, "MIT", Evaluation(crop=0.9), "0" * 8 if damaged else digest[:8])
    family = family_of(task.backbone)
    small = type(family)(
        MambaOut,
        {"small": lambda: MambaOut((1, 1), (8, 12))},
        {"small": Published(1.0, "accuracy", 224, None, "test", weights)},
        family.formats,
        family.backbone_key,
    )
    monkeypatch.setattr(known, "FAMILIES", (small,))
    if damaged:
        with pytest.raises(
            InputError, match=rf"{url}: its SHA-256 is {digest}, published 00000000; remove the damaged"
        ):
            task.start_from_pretrained()
        return
    task.start_from_pretrained()
    assert asked == [url]
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in task.state_dict().items())
    assert task.pretrained_record is not None and task.pretrained_record["source"] == url
    ImageClassification(MambaOut((1, 1), (8, 12)), 5, pretrained="official").start_from_pretrained()
    assert asked == [url]  # from the cache


def test_an_address_out_of_reach_gets_one_line(tmp_path: Path, monkeypatch) -> None:
    def download(*_: object, **__: object) -> None:
        raise OSError("name resolution failed")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    task = ImageClassification(VARIANTS["mambaout_femto"](), 5, pretrained="official")
    with pytest.raises(InputError, match=r"mambaout_femto\.pth can't be downloaded \(name resolution failed\)"):
        task.start_from_pretrained()


def test_every_figure_and_address_is_of_a_variant_and_states_a_licence() -> None:
    for family in FAMILIES:
        assert set(family.published) <= set(family.variants)
    addresses = [figure.weights.address for figure in PUBLISHED.values() if figure.weights]
    assert len(addresses) == len(set(addresses)) == 47
    for figure in PUBLISHED.values():
        if figure.weights is not None:
            assert figure.weights.licence
            if figure.weights.evaluation is not None:
                assert figure.weights.evaluation.size == figure.input_size


def test_a_sequence_backbone_on_images_takes_those_of_its_own(monkeypatch) -> None:
    seen: list[str] = []

    def read(source: str, ema: bool | None) -> None:
        seen.append(source)
        raise InputError("enough")

    monkeypatch.setattr("mambarium.backbones.published.loading.read_pretrained", read)
    with torch.device("meta"):
        task = ImageClassification(SequenceOnImages(from_variant("mamba_130m"), 8, 4), 2, pretrained="official")
    with pytest.raises(InputError, match="enough"):
        task.start_from_pretrained()
    assert seen == ["state-spaces/mamba-130m"]

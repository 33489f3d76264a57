"""Weights in wrappings of other programs, and those that are refused by what they are."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mambarium.backbones import MambaOut, MambaVision, load_pretrained
from mambarium.backbones.published.writing import official_weights
from mambarium.errors import InputError

KEY = "stages.1.0.fc1.weight"


def small() -> MambaOut:
    return MambaOut(depths=(1, 1), widths=(16, 24))


@pytest.fixture
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return official_weights(small(), {})


def refusal(source: Path, backbone: torch.nn.Module | None = None) -> str:
    backbone = backbone or small()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with pytest.raises(InputError) as error:
        load_pretrained(backbone, source)
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    return str(error.value)


def is_loaded(backbone: MambaOut, weights: dict[str, Tensor]) -> bool:
    found = official_weights(backbone, {})
    return all(torch.equal(found[key], value) for key, value in weights.items())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda value: value.index_fill(0, torch.tensor([3]), torch.nan), "holds NaN in "),
        (lambda value: value.index_fill(0, torch.tensor([3]), torch.inf), "holds infinite values in "),
        (lambda value: value > 0, "holds bool in KEY, expected float32"),
        (lambda value: value.to(torch.int64), "holds int64 in KEY, expected float32"),
        (lambda value: value.to(torch.int8), "holds int8 in KEY, expected float32"),
        (lambda value: value.to(torch.complex64), "holds complex64 in KEY, expected float32"),
        (lambda value: value.to_sparse(), "holds a sparse tensor in "),
        (lambda value: value.to("meta"), "holds no values in "),
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "quantised by torch (KEY)"),
    ],
)
def test_values_that_no_network_computes_with_are_named(
    damage: Callable[[Tensor], Tensor], words: str, tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    torch.save(weights | {KEY: damage(weights[KEY])}, tmp_path / "damaged.pth")
    message = refusal(tmp_path / "damaged.pth")
    assert words.replace("KEY", KEY) in message and KEY in message


def test_floats_in_the_place_of_counts_are_named(tmp_path: Path) -> None:
    backbone = MambaVision(depths=(1, 1), width=8, stem_width=8, num_heads=(2,), window_sizes=(2,))
    stored = official_weights(backbone, {})
    counter = next(key for key in stored if key.endswith("num_batches_tracked"))
    torch.save(stored | {counter: torch.tensor(0.5)}, tmp_path / "average.pth")
    assert f"holds float32 in {counter}, expected int64" in refusal(tmp_path / "average.pth", backbone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_are_brought_to_ours(
    dtype: torch.dtype, tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    torch.save({key: value.to(dtype) for key, value in weights.items()}, tmp_path / "other.pth")
    backbone = small()
    load_pretrained(backbone, tmp_path / "other.pth")
    assert is_loaded(backbone, {key: value.to(dtype).float() for key, value in weights.items()})


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {"module." + key: value for key, value in weights.items()},
        lambda weights: {"model_ema": {"module.module." + key: value for key, value in weights.items()}},
        lambda weights: {"_orig_mod." + key: value for key, value in weights.items()},
        lambda weights: {key.replace("fc1.", "_orig_mod.fc1."): value for key, value in weights.items()},
        lambda weights: {key.replace("conv.", "_checkpoint_wrapped_module.conv."): weights[key] for key in weights},
        lambda weights: {"_fsdp_wrapped_module." + key: value for key, value in weights.items()},
        lambda weights: {"n_averaged": torch.tensor(3), **{"module." + key: value for key, value in weights.items()}},
        lambda weights: {
            "model": weights | {"total_ops": torch.zeros(1), "stages.0.0.fc1.total_params": torch.ones(1)}
        },
        lambda weights: {"params": weights},
        lambda weights: {"params_ema": weights},
        lambda weights: {"ema_state_dict": {"steps": 5, **{"module." + key: weights[key] for key in weights}}},
        lambda weights: {"student": {"module.backbone." + key: value for key, value in weights.items()}, "epoch": 1},
        lambda weights: {"model": {"teacher.backbone." + key: value for key, value in weights.items()}},
        lambda weights: {"module": weights, "ds_version": "0.19", "buffer_names": []},
        lambda weights: {"state_dict": {"net." + key: value for key, value in weights.items()}},
    ],
)
def test_wrappers_and_counters_of_other_programs_are_taken_off(
    wrap: Callable[[dict[str, Tensor]], dict[str, Any]], tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    torch.save(wrap(weights), tmp_path / "wrapped.pth")
    backbone = small()
    report = load_pretrained(backbone, tmp_path / "wrapped.pth")
    assert is_loaded(backbone, weights)
    assert not report.missing and not report.unexpected


def test_of_a_student_and_its_teacher_either_can_be_had(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    average = {key: value + 1 for key, value in weights.items()}
    torch.save({"student": weights, "teacher": average}, tmp_path / "both.pth")
    backbone = small()
    assert "'teacher' is there too" in load_pretrained(backbone, tmp_path / "both.pth").weights
    assert is_loaded(backbone, weights)
    load_pretrained(backbone, tmp_path / "both.pth", ema=True)
    assert is_loaded(backbone, average)


@pytest.mark.parametrize(
    ("extra", "method"),
    [
        ("stages.1.0.fc1.SCB", "bitsandbytes"),
        ("stages.1.0.fc1.weight.quant_map", "bitsandbytes"),
        ("stages.1.0.fc1.qweight", "GPTQ or AWQ"),
        ("stages.1.0.fc1.weight_packed", "compressed-tensors"),
        ("stages.1.0.fc1.weight_scale_inv", "8-bit floating point"),
    ],
)
def test_quantised_weights_are_refused_by_name(
    extra: str, method: str, tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    torch.save(weights | {extra: torch.zeros(3)}, tmp_path / "quantised.pth")
    assert f"holds weights quantised by {method} ({extra})" in refusal(tmp_path / "quantised.pth")


def test_a_configuration_that_says_quantised_is_refused(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    torch.save(weights, tmp_path / "pytorch_model.bin")
    quantization = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps(quantization))
    assert "quantization_config.quant_method = 'gptq'" in refusal(tmp_path)


def test_parts_of_one_process_are_refused_with_the_way_to_the_whole(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    empty = {key: torch.empty(0) for key in weights}
    torch.save({"module": empty, "ds_version": "0.19"}, tmp_path / "zero3.pt")
    torch.save({"optimizer_state_dict": {}, "ds_config": {}, "ds_version": "0.19"}, tmp_path / "optim_states.pt")
    for name in ("zero3.pt", "optim_states.pt"):
        assert "zero_to_fp32.py" in refusal(tmp_path / name)
    torch.save({"_fsdp_wrapped_module._flat_param": torch.zeros(9)}, tmp_path / "flat.pt")
    assert "one process's flat part of FSDP's weights" in refusal(tmp_path / "flat.pt")
    for name, words in (("__0_0.distcp", "dcp_to_torch"), ("zero_to_fp32.py", "DeepSpeed wrote")):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).touch()
        assert words in refusal(folder)


def test_a_torchscript_archive_is_refused_as_one(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "scripted.pt")
    assert "TorchScript archive" in refusal(tmp_path / "scripted.pt")


def test_a_file_without_tensors_says_what_it_has(tmp_path: Path) -> None:
    torch.save({"epoch": 1, "history": [2.0]}, tmp_path / "bare.pth")
    assert "holds no named tensors (but epoch, history)" in refusal(tmp_path / "bare.pth")


def test_the_backbone_of_a_detector_is_loaded_with_mmengine_s_records_around_it(
    tmp_path: Path, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    class HistoryBuffer:
        """As mmengine's, which keeps its class's functions by name."""

        def __init__(self) -> None:
            self._log_history = np.array([0.5])

        def mean(self) -> None: ...

        def __getstate__(self) -> dict[str, Any]:
            return self.__dict__ | {"statistics_methods": {"mean": HistoryBuffer.mean}}

        def __setstate__(self, state: dict[str, Any]) -> None:
            raise AssertionError("nothing of a file is run")

    name = "mmengine.logging.history_buffer"
    module = ModuleType(name)
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]  # stands in for the package
    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = name, "HistoryBuffer"
    HistoryBuffer.mean.__module__, HistoryBuffer.mean.__qualname__ = name, "HistoryBuffer.mean"
    for part in ("mmengine", "mmengine.logging", name):
        monkeypatch.setitem(sys.modules, part, module if part == name else ModuleType(part))
    detector = {"backbone." + key: value for key, value in weights.items()}
    detector |= {"neck.conv.weight": torch.zeros(2), "decode_head.conv_seg.weight": torch.zeros(2)}
    content = {
        "meta": {"config": "model = dict(type='EncoderDecoder')", "epoch": 3},
        "message_hub": {"log_scalars": {"train/loss": HistoryBuffer()}},
        "state_dict": detector,
    }
    torch.save(content, tmp_path / "segmenter.pth")
    monkeypatch.undo()
    backbone = small()
    report = load_pretrained(backbone, tmp_path / "segmenter.pth")
    assert is_loaded(backbone, weights)
    assert report.unexpected == ["neck.conv.weight", "decode_head.conv_seg.weight"]
    assert report.unread == [f"config ({tmp_path / 'segmenter.pth'}, its entry 'meta')"]


def test_a_detector_around_another_backbone_says_what_it_is(tmp_path: Path) -> None:
    keys = ("backbone.conv1.weight", "neck.lateral.weight", "rpn_head.conv.weight", "roi_head.fc.bias")
    torch.save({"state_dict": {key: torch.zeros(1) for key in keys}}, tmp_path / "detector.pth")
    message = refusal(tmp_path / "detector.pth")
    assert re.search("parts backbone, neck, rpn_head, roi_head, and the backbone is of no family known here", message)

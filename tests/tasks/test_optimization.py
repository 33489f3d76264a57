"""Parameter groups by name and module, schedules by ratio."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from mambarium.backbones import BlockStateTransformer, Mamba, MambaOut, MambaVision, Vim, VMamba, from_variant
from mambarium.errors import InputError
from mambarium.tasks import Constant, ImageClassification, LanguageModeling, WarmupCosine, WarmupLinear, WarmupSteps
from mambarium.tasks.optimization import parameter_groups


def names_in_group(model: nn.Module, decayed: bool) -> set[str]:
    groups = [group for group in parameter_groups(model) if ("weight_decay" not in group) == decayed]
    members = {id(parameter) for group in groups for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in members}


def small_models() -> dict[str, nn.Module]:
    return {
        "mamba": LanguageModeling(Mamba(width=16, depth=2), vocab_size=11),
        "untied": LanguageModeling(Mamba(width=16, depth=1), vocab_size=11, tie_embedding=False),
        "vim": ImageClassification(Vim(image_size=8, patch_size=2, width=16, depth=2), num_classes=3),
        "vmamba": ImageClassification(VMamba("v0", depths=(1, 1), widths=(16, 24), d_state=2), num_classes=3),
        "mambavision": ImageClassification(
            MambaVision(depths=(1, 2), width=8, num_heads=(2,), window_sizes=(2,), layer_scale=1e-5), num_classes=3
        ),
        "mambaout": ImageClassification(MambaOut(depths=(1, 1), widths=(16, 24)), num_classes=3),
    }


@pytest.mark.parametrize("name", ["mamba", "untied", "vim", "vmamba", "mambavision", "mambaout"])
def test_each_parameter_stands_in_exactly_one_group(name: str) -> None:
    model = small_models()[name]
    members = [parameter for group in parameter_groups(model) for parameter in group["params"]]
    assert len(members) == len({id(parameter) for parameter in members})
    assert {id(parameter) for parameter in members} == {id(parameter) for parameter in model.parameters()}


@pytest.mark.parametrize("name", ["mamba", "untied", "vim", "vmamba", "mambavision", "mambaout"])
def test_decay_falls_on_matrices_and_kernels_only(name: str) -> None:
    decayed = names_in_group(small_models()[name], decayed=True)
    ends = {parameter_name.rsplit(".", 1)[-1] for parameter_name in decayed}
    assert ends == {"weight", *(("x_proj_weight", "dt_projs_weight") if name == "vmamba" else ())}
    for parameter_name in decayed:
        assert not any(part in parameter_name for part in ("norm", "embedding", "A_log", "A_b_log"))


def test_state_space_parameters_have_no_decay() -> None:
    undecayed = names_in_group(small_models()["vim"], decayed=False)
    for end in ("A_log", "D", "dt_proj.bias", "pos_embed", "cls_token", "norm_f.weight"):
        assert any(name.endswith(end) for name in undecayed), end
    undecayed = names_in_group(small_models()["vmamba"], decayed=False)
    for end in ("A_logs", "Ds", "dt_projs_bias", "out_norm.weight"):
        assert any(name.endswith(end) for name in undecayed), end


def test_learned_states_and_skips_of_filters_have_no_decay() -> None:
    backbone = BlockStateTransformer(
        8, 2, 2, window_size=4, context_layers=[0], context="multi_filter", filters="unstructured", filter_length=8
    )
    ends = {name.rsplit(".", 1)[-1] for name in names_in_group(backbone, decayed=True)}
    assert not ends & {"D", "names", "initial"}


def test_a_tied_embedding_has_no_decay_and_an_untied_head_has() -> None:
    assert not any("head" in name for name in names_in_group(small_models()["mamba"], decayed=True))
    assert "objective.head.weight" in names_in_group(small_models()["untied"], decayed=True)


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    members = [parameter for group in parameter_groups(model) for parameter in group["params"]]
    assert {id(parameter) for parameter in members} == {id(model[1].weight), id(model[1].bias)}


@pytest.mark.parametrize("schedule_class", [WarmupCosine, WarmupLinear])
def test_warmup_rises_to_one_and_falls_to_the_final_factor(schedule_class: type) -> None:
    schedule = schedule_class(warmup=0.2, final=0.1)
    assert schedule(0.0) == 0.0
    assert schedule(0.1) == pytest.approx(0.5)
    assert schedule(0.2) == pytest.approx(1.0)
    assert schedule(0.6) == pytest.approx(0.55)
    assert schedule(1.0) == pytest.approx(0.1)
    values = [schedule(0.2 + 0.01 * step) for step in range(81)]
    assert all(earlier >= later for earlier, later in pairwise(values))


@pytest.mark.parametrize("schedule_class", [WarmupCosine, WarmupLinear])
@pytest.mark.parametrize(("name", "value"), [("warmup", -0.1), ("warmup", 1.5), ("warmup", 500), ("final", -0.1)])
def test_shares_and_factors_out_of_range_are_refused(schedule_class: type, name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"^{name} is {value}; give "):
        schedule_class(**{name: value})


def test_steps_drop_after_their_share_of_the_run() -> None:
    schedule = WarmupSteps(warmup=0.1, drops=(0.5, 0.75), factor=0.1, start=0.2)
    assert schedule(0.0) == 0.2
    assert schedule(0.05) == pytest.approx(0.6)
    assert [schedule(progress) for progress in (0.1, 0.5, 0.51, 0.75, 0.76, 1.0)] == pytest.approx(
        [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    )


@pytest.mark.parametrize(
    ("name", "value"), [("warmup", 2.0), ("drops", (0.5, 0.4)), ("drops", (0.5, 1.5)), ("factor", 2.0), ("start", -1.0)]
)
def test_steps_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^{name} is "):
        WarmupSteps(**{name: value})


def test_schedules_start_from_the_documented_defaults() -> None:
    """A twentieth of the run to warm up, and down to nothing; detectors': a hundredth, a tenth after 8 and 11 of 12."""
    for schedule in (WarmupCosine(), WarmupLinear()):
        assert (schedule(0.025), schedule(0.05), schedule(1.0)) == pytest.approx((0.5, 1.0, 0.0))
    steps = WarmupSteps()
    assert [steps(progress) for progress in (0.0, 0.01, 0.66, 0.67, 0.91, 0.92)] == pytest.approx(
        [0.001, 1.0, 1.0, 0.1, 0.1, 0.01]
    )


def test_a_run_of_nothing_but_warmup_ends_at_the_full_rate() -> None:
    assert WarmupLinear(warmup=1.0)(1.0) == WarmupCosine(warmup=1.0)(1.0) == 1.0


def test_no_warmup_starts_at_one() -> None:
    assert WarmupCosine(warmup=0.0)(0.0) == 1.0
    assert Constant()(0.3) == 1.0


def test_the_rate_of_each_step_follows_the_schedule() -> None:
    from lightning.pytorch import Trainer

    model = LanguageModeling(
        Mamba(width=8, depth=1),
        vocab_size=5,
        optimizer=lambda p: torch.optim.SGD(p, lr=2.0),
        schedule=WarmupLinear(0.5),
    )
    rates: list[float] = []
    model.on_train_batch_start = lambda batch, batch_idx: rates.append(model.optimizers().param_groups[0]["lr"])
    row = {
        "tokens": torch.zeros(3, dtype=torch.long),
        "targets": torch.ones(3, dtype=torch.long),
        "num_bytes": torch.tensor(3),
    }
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, torch.utils.data.DataLoader([row] * 4))
    assert rates == pytest.approx([1.0, 2.0, 1.0, 0.0])


# Parameters without weight decay, counted with the rule by names that every module now states for itself.
UNDECAYED = {
    "mamba_130m": 121,
    "vim_tiny": 219,
    "vmamba_tiny_s1l8": 169,
    "mambavision_t": 130,
    "mambaout_femto": 105,
    "local_vim_tiny": 422,
    "local_vmamba_tiny": 189,
    "mamba_yolo_tiny": 143,
    "deit_tiny": 99,
    "swin_tiny": 117,
    "convnext_tiny": 120,
}


@pytest.mark.parametrize("name", UNDECAYED)
def test_published_variants_leave_as_many_parameters_without_decay_as_ever(name: str) -> None:
    with torch.device("meta"):
        backbone = from_variant(name)
    undecayed = names_in_group(backbone, decayed=False)
    assert len(undecayed) == UNDECAYED[name]


def test_a_parameter_that_mamba_ssm_marks_has_no_decay() -> None:
    model = nn.Conv1d(3, 3, 3, bias=False)
    assert names_in_group(model, decayed=True) == {"weight"}
    model.weight._no_weight_decay = True
    assert names_in_group(model, decayed=False) == {"weight"}

"""What comes with published weights and leaves no trace in tensors: it is honoured, refused or named."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters_context
from safetensors.torch import save_file

from mambarium.backbones import (
    Backbone,
    ConvNeXt,
    LocalVMamba,
    Mamba,
    MambaOut,
    MambaVision,
    Swin,
    Vim,
    ViT,
    VMamba,
    from_variant,
)
from mambarium.backbones import load_pretrained as load_backbone
from mambarium.backbones.published.writing import official_weights
from mambarium.errors import InputError
from mambarium.tasks import ImageClassification, LanguageModeling, export_official, load_pretrained

pytestmark = pytest.mark.thorough

SIZES: dict[str, Any] = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2}


def transformers_folder(folder: Path, kind: str = "Mamba", **fields: Any) -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES, **fields)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model


def language_model(**sizes: Any) -> LanguageModeling:
    return LanguageModeling(Mamba(**{"width": 32, "depth": 2, **sizes}), vocab_size=50).eval()


def refusal(target: LanguageModeling | ImageClassification, source: Path | str) -> str:
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(InputError) as error:
        load_pretrained(target, source)
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    return str(error.value)


def edit(path: Path, **fields: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | fields))


def test_a_mamba_of_transformers_gives_its_logits_and_all_its_fields_are_known(tmp_path: Path) -> None:
    model = transformers_folder(tmp_path)
    task = language_model()
    report = load_pretrained(task, tmp_path)
    tokens = torch.randint(50, (2, 17))
    with torch.no_grad():
        torch.testing.assert_close(task(tokens), model(tokens).logits, rtol=0, atol=2e-5)
    assert report.unread == [] and report.notes == []
    assert f"{tmp_path / 'config.json'}: 14 fields as here" in str(report)
    edit(tmp_path / "config.json", new_in_transformers_6=False)
    report = load_pretrained(task, tmp_path / "model.safetensors")
    assert report.unread == [f"new_in_transformers_6 ({tmp_path / 'config.json'})"]
    assert "unread       new_in_transformers_6" in str(report)


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        ("FalconMamba", {}, "model_type is 'falcon_mamba', another model than Mamba (transformers)"),
        ("Mamba", {"layer_norm_epsilon": 1e-3}, "layer_norm_epsilon is 0.001, Mamba here has 1e-05 and no other"),
        ("Mamba", {"hidden_act": "gelu"}, "hidden_act is 'gelu', Mamba here has 'silu' and no other"),
        (
            "Mamba",
            {"residual_in_fp32": False},
            "residual_in_fp32 is False, Mamba here has residual_in_fp32 True; set residual_in_fp32,",
        ),
    ],
)
def test_a_mamba_that_computes_something_else_is_refused(
    kind: str, fields: dict[str, Any], words: str, tmp_path: Path
) -> None:
    transformers_folder(tmp_path, kind, **fields)
    for source in (tmp_path, tmp_path / "model.safetensors"):
        message = refusal(language_model(), source)
        assert words in message and str(tmp_path / "config.json") in message


def test_a_setting_of_ours_honours_the_file_s(tmp_path: Path) -> None:
    transformers_folder(tmp_path, residual_in_fp32=False)
    report = load_pretrained(language_model(residual_in_fp32=False), tmp_path)
    assert not report.missing and not report.unread


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"architectures": ["MambaForSomethingElse"]}, "architectures is 'MambaForSomethingElse', another model"),
        ({"auto_map": {"AutoModelForCausalLM": "code.Mamba"}}, "auto_map.AutoModelForCausalLM is 'code.Mamba'"),
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"hidden_size": 48}, "hidden_size is 48, Mamba here has width 32; set width,"),
    ],
)
def test_a_configuration_that_names_other_code_or_sizes_is_refused(
    fields: dict[str, Any], words: str, tmp_path: Path
) -> None:
    transformers_folder(tmp_path)
    edit(tmp_path / "config.json", **fields)
    assert words in refusal(language_model(), tmp_path)


def test_a_head_of_its_own_that_the_file_lacks_is_not_taken_from_the_embedding(tmp_path: Path) -> None:
    transformers_folder(tmp_path)  # whose file has no lm_head.weight
    edit(tmp_path / "config.json", tie_word_embeddings=False)
    task = LanguageModeling(Mamba(width=32, depth=2), vocab_size=50, tie_embedding=False)
    head = task.objective.head.weight.clone()
    report = load_pretrained(task, tmp_path)
    assert report.fresh == ["head.weight (not in the file)"]
    assert torch.equal(task.objective.head.weight, head)


def test_a_vit_of_transformers_is_refused_as_what_it_is(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    transformers.ViTForImageClassification(transformers.ViTConfig(**sizes)).save_pretrained(tmp_path)
    task = ImageClassification(ViT(16, patch_size=4, width=16, depth=1, num_heads=2), 5)
    assert "its config.json says model_type 'vit'" in refusal(task, tmp_path)


ORIGINAL_CONFIG: dict[str, Any] = {
    "d_model": 32,
    "d_intermediate": 0,
    "n_layer": 2,
    "vocab_size": 50,
    "ssm_cfg": {"layer": "Mamba1"},
    "attn_layer_idx": [],
    "attn_cfg": {},
    "rms_norm": True,
    "residual_in_fp32": True,
    "fused_add_norm": True,
    "pad_vocab_size_multiple": 8,
    "tie_embeddings": True,
}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rms_norm": False}, "rms_norm is False, Mamba here has True and no other"),
        ({"residual_in_fp32": False}, "set residual_in_fp32,"),
        ({"ssm_cfg": {"layer": "Mamba2"}}, "ssm_cfg.layer is 'Mamba2', Mamba here has 'Mamba1'"),
        ({"ssm_cfg": {"d_state": 8}}, "ssm_cfg.d_state is 8, Mamba here has d_state 16; set d_state,"),
        ({"ssm_cfg": {"b_c_dt_norm": True}}, "ssm_cfg.b_c_dt_norm is True, a setting of the model that is not known"),
        ({"attn_layer_idx": [1]}, "attn_layer_idx is [1]"),
        ({"d_intermediate": 64}, "d_intermediate is 64"),
        ({"bidirectional": True}, "bidirectional is True"),
    ],
)
def test_mamba_ssm_s_configuration_is_compared(fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    export_official(language_model(), tmp_path / "model.safetensors")
    edit(tmp_path / "config.json", **ORIGINAL_CONFIG)
    report = load_pretrained(language_model(), tmp_path)
    assert report.format == "Mamba (state-spaces/mamba)" and not report.unread and not report.notes
    edit(tmp_path / "config.json", **fields)
    assert words in refusal(language_model(), tmp_path)


def test_a_configuration_that_is_none_is_named(tmp_path: Path) -> None:
    export_official(language_model(), tmp_path / "model.safetensors")
    assert "no config.json beside the weights" in load_pretrained(language_model(), tmp_path).settings
    edit(tmp_path / "config.json", editor="a project of its own")
    assert load_pretrained(language_model(), tmp_path).unread == [f"editor ({tmp_path / 'config.json'})"]
    for content, words in (("{", "can't be read as JSON"), ("[1]", "holds a list"), ("\xff", "can't be read as JSON")):
        (tmp_path / "config.json").write_text(content, encoding="latin-1")
        assert words in refusal(language_model(), tmp_path)


def test_hub_names_bring_their_configuration_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--someone--mamba" / "snapshots" / ("0" * 40)
    (tmp_path / "models--someone--mamba" / "refs").mkdir(parents=True)
    (tmp_path / "models--someone--mamba" / "refs" / "main").write_text("0" * 40)
    snapshot.mkdir(parents=True)
    export_official(language_model(), snapshot / "model.safetensors")
    assert "config.json is not in the hub's cache" in load_pretrained(language_model(), "someone/mamba").settings
    edit(snapshot / "config.json", **ORIGINAL_CONFIG)
    report = load_pretrained(language_model(), "someone/mamba:model.safetensors")
    assert report.settings == "config.json of someone/mamba: 7 fields as here"
    edit(snapshot / "config.json", rms_norm=False)
    for name in ("someone/mamba", "someone/mamba:model.safetensors"):
        assert "config.json of someone/mamba: rms_norm is False" in refusal(language_model(), name)


VIT: dict[str, Any] = {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
TIMM: dict[str, tuple[Backbone, dict[str, Any], dict[str, Any], str]] = {
    "vit_tiny_patch16_224": (
        ViT(16, patch_size=4, width=16, depth=2, num_heads=2),
        {"img_size": 16, **VIT},
        {"num_heads": 4},
        "model_args.num_heads is 4, ViT here has num_heads 2; set num_heads,",
    ),
    "vit_small_patch16_224": (
        ViT(16, patch_size=4, width=16, depth=2, num_heads=2),
        {"img_size": 16, **VIT},
        {"act_layer": "relu"},
        "model_args.act_layer is 'relu', ViT here has 'gelu' and no other",
    ),
    "swin_tiny_patch4_window7_224": (
        Swin(depths=(2, 1), width=8, num_heads=(2, 4), window_size=4),
        {"img_size": 32, "embed_dim": 8, "depths": (2, 1), "num_heads": (2, 4), "window_size": 4},
        {"qkv_bias": False},
        "model_args.qkv_bias is False",
    ),
    "convnext_tiny": (
        ConvNeXt(depths=(1, 1, 1, 2), widths=(8, 8, 8, 12)),
        {"depths": (1, 1, 1, 2), "dims": (8, 8, 8, 12)},
        {"norm_eps": 1e-5},
        "model_args.norm_eps is 1e-05, ConvNeXt here has 1e-06 and no other",
    ),
    "mambaout_tiny": (
        MambaOut(depths=(1, 1, 1, 1), widths=(8, 8, 8, 12)),
        {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 12)},
        {"act_layer": "silu"},
        "model_args.act_layer is 'silu', MambaOut here has 'gelu' and no other",
    ),
}


@pytest.mark.parametrize("architecture", TIMM)
@torch.no_grad()
def test_timm_s_folders_are_read_and_compared(architecture: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    from timm.models import save_for_hf

    backbone, arguments, other, words = TIMM[architecture]
    torch.manual_seed(0)
    theirs = timm.create_model(architecture, num_classes=5, **arguments).eval()
    save_for_hf(theirs, tmp_path, safe_serialization=True)
    task = ImageClassification(backbone, 5).eval()
    report = load_pretrained(task, tmp_path)
    images = torch.randn(2, 3, arguments.get("img_size", 64), arguments.get("img_size", 64))
    torch.testing.assert_close(task(images), theirs(images), rtol=1e-5, atol=1e-5)
    assert report.unread == [] and len(report.notes) == 1
    assert "images were prepared with" in report.notes[0] and "mean [0." in report.notes[0]
    content = json.loads((tmp_path / "config.json").read_text())
    edit(tmp_path / "config.json", model_args=content["model_args"] | other)
    assert words in refusal(task, tmp_path)
    edit(tmp_path / "config.json", model_args=content["model_args"] | {"new_norm": True, "newer": None})
    assert "model_args.new_norm is True, a setting of the model that is not known" in refusal(task, tmp_path)
    edit(tmp_path / "config.json", model_args=content["model_args"] | {"newer": None})
    assert load_pretrained(task, tmp_path).unread == [f"model_args.newer ({tmp_path / 'config.json'})"]
    edit(tmp_path / "config.json", architecture=architecture + "_quickgelu")
    assert f"architecture is '{architecture}_quickgelu', another model" in refusal(task, tmp_path)


@torch.no_grad()
def test_a_timm_model_that_only_its_name_tells_apart_is_refused(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    from timm.models import save_for_hf

    architecture, sizes = "vit_base_patch16_siglip_224", {"class_token": True, "global_pool": "token", **VIT}
    theirs = timm.create_model(architecture, num_classes=5, img_size=16, fc_norm=False, **sizes)
    save_for_hf(theirs, tmp_path, safe_serialization=True)
    task = ImageClassification(ViT(16, patch_size=4, width=16, depth=2, num_heads=2), 5)
    assert f"architecture is '{architecture}', another model" in refusal(task, tmp_path)


def mambavision(**options: Any) -> ImageClassification:
    sizes: dict[str, Any] = {"depths": (1, 2), "width": 8, "stem_width": 6, "num_heads": (2,), "window_sizes": (2,)}
    return ImageClassification(MambaVision(**{**sizes, **options}), num_classes=7)


MAMBAVISION_CONFIG: dict[str, Any] = {
    "architectures": ["MambaVisionModelForImageClassification"],
    "auto_map": {"AutoConfig": "configuration_mambavision.MambaVisionConfig"},
    "depths": [1, 2],
    "dim": 8,
    "drop_path_rate": 0.2,
    "in_dim": 6,
    "mlp_ratio": 4,
    "model_type": "mambavision",
    "num_heads": [1, 2],
    "torch_dtype": "float32",
    "transformers_version": "4.38.2",
    "window_size": [8, 2],
}


def test_mambavision_s_configuration_is_compared(tmp_path: Path) -> None:
    weights = official_weights(mambavision().backbone, {})
    save_file({f"model.{key}": value for key, value in weights.items()}, tmp_path / "model.safetensors")
    edit(tmp_path / "config.json", **MAMBAVISION_CONFIG)
    report = load_pretrained(mambavision(), tmp_path)
    assert not report.unread and not report.notes
    assert "num_heads is [1, 2], MambaVision here has num_heads (4,); set num_heads," in refusal(
        mambavision(num_heads=(4,)), tmp_path
    )
    # Windows serve other images than those of training.
    report = load_pretrained(mambavision(window_sizes=(4,)), tmp_path)
    assert report.notes == [
        f"{tmp_path / 'config.json'}: window_size is [8, 2], MambaVision here has window_sizes (4,)"
    ]
    edit(tmp_path / "config.json", layer_scale_conv=1e-5)
    assert "layer_scale_conv is 1e-05" in refusal(mambavision(), tmp_path)


def yacs_file(path: Path, backbone: Backbone, kind: str, section: str, **settings: Any) -> Path:
    config = {
        "MODEL": {"TYPE": kind, "NAME": "x", "DROP_PATH_RATE": 0.2, section: settings},
        "DATA": {"IMG_SIZE": 224},
        "TRAIN": {"EPOCHS": 300, "OPTIMIZER": {"NAME": "adamw"}},
        "AMP_ENABLE": True,
    }
    torch.save({"model": official_weights(backbone, {}), "config": config}, path)
    return path


VSSM: dict[str, Any] = {
    "PATCH_SIZE": 4,
    "IN_CHANS": 3,
    "DEPTHS": [1, 1],
    "EMBED_DIM": 8,
    "SSM_D_STATE": 1,
    "SSM_RATIO": 1.0,
    "SSM_RANK_RATIO": 2.0,
    "SSM_DT_RANK": "auto",
    "SSM_ACT_LAYER": "silu",
    "SSM_CONV": 3,
    "SSM_CONV_BIAS": False,
    "SSM_DROP_RATE": 0.0,
    "SSM_INIT": "v0",
    "SSM_FORWARDTYPE": "v3_noz",
    "MLP_RATIO": 4.0,
    "MLP_ACT_LAYER": "gelu",
    "MLP_DROP_RATE": 0.0,
    "PATCH_NORM": True,
    "NORM_LAYER": "ln2d",
    "DOWNSAMPLE": "v3",
    "PATCHEMBED": "v2",
    "GMLP": False,
}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"SSM_FORWARDTYPE": "v052d_noz"}, "SSM_FORWARDTYPE is 'v052d_noz', VMamba here has forward_type 'v05_noz'"),
        ({"SSM_FORWARDTYPE": "v05_noz_oact"}, "SSM_FORWARDTYPE is 'v05_noz_oact'"),
        ({"SSM_ACT_LAYER": "gelu"}, "SSM_ACT_LAYER is 'gelu', VMamba here has 'silu' and no other"),
        ({"MLP_ACT_LAYER": "relu"}, "MLP_ACT_LAYER is 'relu'"),
        ({"NORM_LAYER": "bn"}, "NORM_LAYER is 'bn'"),
        ({"SSM_RATIO": "two"}, "SSM_RATIO is 'two', VMamba here has ssm_ratio"),
        ({"POSEMBED": True}, "POSEMBED is True"),
        ({"ROPE": True}, "ROPE is True, a setting of the model that is not known here"),
    ],
)
def test_vmamba_s_configuration_is_compared(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    backbone = VMamba(depths=(1, 1), widths=(8, 16))
    path = yacs_file(tmp_path / "vssm.pth", backbone, "vssm", "VSSM", **VSSM)
    report = load_backbone(VMamba(depths=(1, 1), widths=(8, 16)), path)
    assert not report.unread and not report.notes
    assert report.settings == f"{path}, its entry 'config': 19 fields as here"
    yacs_file(path, backbone, "vssm", "VSSM", **VSSM | settings)
    with pytest.raises(InputError) as error:
        load_backbone(VMamba(depths=(1, 1), widths=(8, 16)), path)
    assert words in str(error.value) and f"{path}, its entry 'config': MODEL.VSSM." in str(error.value)


def test_vmamba_of_the_first_generation_has_its_own_settings(tmp_path: Path) -> None:
    backbone = VMamba("v0", depths=(1, 1), widths=(8, 16), d_state=2, ssm_ratio=2.0, mlp_ratio=0.0)
    settings = {"SSM_D_STATE": 2, "SSM_RATIO": 2.0, "SSM_CONV_BIAS": True, "SSM_FORWARDTYPE": "v0", "MLP_RATIO": 0.0}
    settings |= {"NORM_LAYER": "ln", "DOWNSAMPLE": "v1", "PATCHEMBED": "v1"}
    path = yacs_file(tmp_path / "vssm.pth", backbone, "vssm", "VSSM", **VSSM | settings)
    assert not load_backbone(backbone, path).unread


def test_swin_s_configuration_is_compared(tmp_path: Path) -> None:
    def swin() -> Swin:
        return Swin(depths=(2, 1), width=8, num_heads=(2, 4), window_size=4)

    settings: dict[str, Any] = {"EMBED_DIM": 8, "DEPTHS": [2, 1], "NUM_HEADS": [2, 4], "WINDOW_SIZE": 4}
    settings |= {"MLP_RATIO": 4.0, "QKV_BIAS": True, "QK_SCALE": None, "APE": False, "PATCH_NORM": True}
    path = yacs_file(tmp_path / "swin.pth", swin(), "swin", "SWIN", **settings)
    assert not load_backbone(swin(), path).unread
    yacs_file(path, swin(), "swin", "SWIN", **settings | {"QK_SCALE": 0.5})
    with pytest.raises(InputError, match=r"MODEL\.SWIN\.QK_SCALE is 0\.5, Swin here has None and no other"):
        load_backbone(swin(), path)
    yacs_file(path, swin(), "swinv2", "SWINV2", **settings)
    with pytest.raises(InputError, match=r"MODEL\.TYPE is 'swinv2', another model than Swin"):
        load_backbone(swin(), path)


VIM_NAME = "vim_tiny_patch4_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": VIM_NAME.removesuffix("_div2")}, "another model than Vim"),
        ({"model": VIM_NAME.replace("_abs_pos_embed", "_abs_pos_embed_rope").replace("_abs", "")}, "another model"),
        ({"if_random_cls_token_position": True}, "if_random_cls_token_position is True, Vim here has False"),
        ({"model_kwargs": {"if_rope": True}}, "model_kwargs.if_rope is True, a setting of the model"),
    ],
)
def test_options_of_vim_s_training_script_are_compared(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    def vim() -> Vim:
        return Vim(image_size=8, patch_size=4, width=8, depth=1, d_state=2)

    script = {"model": VIM_NAME, "lr": 1e-3, "drop_path": 0.1, "if_amp": False, "input_size": 224, "seed": 0}
    script |= {"if_random_cls_token_position": False, "if_random_token_rank": False, "output_dir": "out"}
    content = {"model": official_weights(vim(), {}), "args": argparse.Namespace(**script, if_new=True)}
    torch.save(content, tmp_path / "vim.pth")
    report = load_backbone(vim(), tmp_path / "vim.pth")
    assert report.unread == [f"if_new ({tmp_path / 'vim.pth'}, its entry 'args')"] and not report.notes
    torch.save(content | {"args": argparse.Namespace(**script | options)}, tmp_path / "vim.pth")
    with pytest.raises(InputError) as error:
        load_backbone(vim(), tmp_path / "vim.pth")
    assert words in str(error.value) and "its entry 'args'" in str(error.value)


def published_file(name: str, path: Path, **extra: Any) -> Path:
    """A file with the shapes of a variant, without its size: every tensor one number."""
    with torch.device("meta"):
        backbone = from_variant(name)
    stored = {key: torch.zeros(()).expand(value.shape) for key, value in official_weights(backbone, {}).items()}
    torch.save({"model": stored, **extra}, path)
    return path


def test_what_a_published_model_s_tensors_do_not_show_is_named(tmp_path: Path) -> None:
    def deit(num_heads: int) -> ViT:
        return ViT(224, patch_size=16, width=192, depth=12, num_heads=num_heads)

    path = published_file("deit_tiny", tmp_path / "deit.pth")
    assert load_backbone(deit(3), path).notes == []
    what = f"{path}: tensors as those of deit_tiny, but ViT here has other num_heads (6, there 3)"
    assert load_backbone(deit(6), path).notes == [what]
    # Where the file also says that it is this model, there is no doubt.
    published_file("deit_tiny", path, args=argparse.Namespace(model="deit_tiny_patch16_224"))
    assert load_backbone(deit(3), path).notes == []
    with pytest.raises(InputError, match=r"but ViT here has other num_heads \(6, there 3\); set num_heads,"):
        load_backbone(deit(6), path)


def test_routes_of_another_than_the_published_model_are_named(tmp_path: Path) -> None:
    path = published_file("local_vmamba_tiny", tmp_path / "local.pth")
    published = from_variant("local_vmamba_tiny")
    assert load_backbone(published, path).notes == []
    rows = ("rows", "rows_backwards", "columns", "columns_backwards")
    other = LocalVMamba(published.depths, (96, 192, 384, 768), (rows,) * 15)
    what = f"{path}: tensors as those of local_vmamba_tiny, but LocalVMamba here has other routes"
    assert load_backbone(other, path).notes == [what]


def test_settings_of_a_checkpoint_of_ours_are_compared_with_the_run_s(tmp_path: Path) -> None:
    def run(**settings: Any) -> ImageClassification:
        """As the command line builds it, which hands over all arguments as plain data."""
        arguments = {"image_size": 16, "patch_size": 4, "width": 16, "depth": 2, "num_heads": 2, "drop_path": 0.0}
        backbone = {"class_path": "mambarium.backbones.ViT", "init_args": arguments | settings}
        with _given_hyperparameters_context({"backbone": backbone, "num_classes": 5}, "the command line"):
            return ImageClassification(ViT(**arguments | settings), 5)

    source = run()
    content = {"pytorch-lightning_version": "2.6.6", "state_dict": source.state_dict()}
    torch.save(content | {"hyper_parameters": dict(source.hparams)}, tmp_path / "ours.ckpt")
    assert load_pretrained(run(drop_path=0.2), tmp_path / "ours.ckpt").notes == []
    assert load_pretrained(run(num_heads=4), tmp_path / "ours.ckpt").notes == [
        f"{tmp_path / 'ours.ckpt'}: trained with ViT's num_heads 2, here it is 4"
    ]
    in_python = ImageClassification(ViT(16, 4, 16, 2, 2), 5)
    assert load_pretrained(in_python, tmp_path / "ours.ckpt").notes == []

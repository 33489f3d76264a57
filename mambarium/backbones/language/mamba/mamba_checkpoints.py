"""Names in the checkpoints of `state-spaces/mamba` (`pytorch_model.bin`), and what transformers makes of them.

transformers renames the embedding, may leave out a head that is the embedding's matrix, and its `MambaModel` alone has
no prefix.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from mambarium.backbones.language.mamba.mamba_backbone import VARIANTS, Mamba
from mambarium.backbones.published.configuration import CONFIG_FILE, ConfigurationFormat, Expected, fixed
from mambarium.backbones.published.family import Counted, Family, Format, Published, PublishedWeights, Weights, having
from mambarium.backbones.published.transformers import COMMON_FIELDS

EMBEDDING_KEY = "backbone.embedding.weight"
HEAD_KEY = "lm_head.weight"
TRANSFORMERS_EMBEDDING_KEY = "backbone.embeddings.weight"


def backbone_key(name: str) -> str:
    """Return the published key of a parameter of our `Mamba`."""
    return "backbone." + name.replace(".mixer.ssm.", ".mixer.")


def head_key(name: str) -> str:
    """Return the published key of a language model's "embedding.weight" or "head.weight"."""
    return {"embedding.weight": EMBEDDING_KEY, "head.weight": HEAD_KEY}[name]


def recognises_transformers(keys: Collection[str]) -> bool:
    """Whether these are the names of transformers' `MambaForCausalLM` or `MambaModel`."""
    return any(
        f"{prefix}embeddings.weight" in keys and f"{prefix}layers.0.mixer.x_proj.weight" in keys
        for prefix in ("backbone.", "")
    )


def with_head(weights: Mapping[str, Tensor]) -> Weights:
    """Return a state dict whose head is the embedding's matrix if it has none of its own."""
    return {HEAD_KEY: weights[EMBEDDING_KEY], **weights}


def from_transformers(weights: Mapping[str, Tensor]) -> Weights:
    """Return a state dict of transformers with the original names."""
    prefix = "" if TRANSFORMERS_EMBEDDING_KEY in weights else "backbone."
    prefixed = {key if key == HEAD_KEY else prefix + key: value for key, value in weights.items()}
    embedding = prefixed.pop(TRANSFORMERS_EMBEDDING_KEY)
    return with_head({EMBEDDING_KEY: embedding, **prefixed})


def to_transformers(weights: Mapping[str, Tensor]) -> Weights:
    """Return a state dict with the original names under those of transformers."""
    return {TRANSFORMERS_EMBEDDING_KEY if key == EMBEDDING_KEY else key: value for key, value in weights.items()}


def transformers_config(backbone: Mamba, vocab_size: int, tied: bool) -> dict[str, Any]:
    """Return what `config.json` says of a language model, whose head may be tied, for transformers' `MambaConfig`."""
    mixer = backbone.get_submodule("layers.0.mixer")
    ssm = mixer.get_submodule("ssm")
    d_inner, d_state = ssm.get_parameter("A_log").shape
    return {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "vocab_size": vocab_size,
        "hidden_size": backbone.width,
        "intermediate_size": d_inner,
        "expand": d_inner // backbone.width,
        "num_hidden_layers": len(backbone.layers),
        "state_size": d_state,
        "conv_kernel": ssm.get_parameter("conv1d.weight").shape[-1],
        "time_step_rank": ssm.get_parameter("dt_proj.weight").shape[1],
        "layer_norm_epsilon": backbone.norm_f.eps,
        "hidden_act": "silu",
        "use_bias": False,
        "use_conv_bias": True,
        "residual_in_fp32": backbone.residual_in_fp32,
        "tie_word_embeddings": tied,
        "torch_dtype": str(backbone.norm_f.weight.dtype).removeprefix("torch."),
    }


def original_fields(backbone: Mamba) -> dict[str, Expected]:
    """Return what `config.json` of `mamba_ssm` says for a backbone."""
    ours = transformers_config(backbone, 0, True)
    sizes = {
        "d_model": Expected((backbone.width,), "width"),
        "n_layer": Expected((len(backbone.layers),), "depth"),
        **fixed(d_intermediate=0, rms_norm=True, norm_epsilon=backbone.norm_f.eps),
        "residual_in_fp32": Expected((backbone.residual_in_fp32,), "residual_in_fp32"),
        **fixed(attn_layer_idx=[], bidirectional=False),
    }
    ssm = {
        "layer": Expected(("Mamba1",)),
        "d_state": Expected((ours["state_size"],), "d_state"),
        "d_conv": Expected((ours["conv_kernel"],), "d_conv"),
        "expand": Expected((ours["expand"],), "expand"),
        "dt_rank": Expected((ours["time_step_rank"],), "dt_rank", lambda rank: _rank(rank, backbone.width)),
        **fixed(conv_bias=True, bias=False),
    }
    return sizes | {f"ssm_cfg.{name}": value for name, value in ssm.items()}


def transformers_fields(backbone: Mamba) -> dict[str, Expected]:
    """Return what transformers' `config.json` says for a backbone; older ones have the original's fields too."""
    arguments = {
        "hidden_size": "width",
        "num_hidden_layers": "depth",
        "state_size": "d_state",
        "conv_kernel": "d_conv",
        "expand": "expand",
        "time_step_rank": "dt_rank",
        "residual_in_fp32": "residual_in_fp32",
    }
    ours = transformers_config(backbone, 0, True)
    fixed = ("intermediate_size", "layer_norm_epsilon", "use_bias", "use_conv_bias")
    fields = {name: Expected((ours[name],), arguments.get(name)) for name in (*arguments, *fixed)}
    fields["time_step_rank"] = Expected((ours["time_step_rank"],), "dt_rank", lambda rank: _rank(rank, backbone.width))
    return {
        **original_fields(backbone),
        **fields,
        "hidden_act": Expected(("silu", "swish")),
        "d_inner": Expected((ours["intermediate_size"],)),
    }


def with_ties(fields: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Weights:
    """Return the weights without a head that stands for one of its own which the file doesn't have."""
    tied = fields.get("tie_word_embeddings", fields.get("tie_embeddings", True))
    borrowed = not tied and weights[HEAD_KEY] is weights[EMBEDDING_KEY]
    return {key: value for key, value in weights.items() if key != HEAD_KEY or not borrowed}


def _rank(rank: Any, width: int) -> Any:
    return math.ceil(width / 16) if rank == "auto" else rank


# How a new model starts, how it is computed, and what tensors show.
_HARMLESS = (
    "vocab_size",
    "pad_vocab_size_multiple",
    "fused_add_norm",
    "tie_embeddings",
    "initializer_cfg.*",
    "ssm_cfg.dt_*",
    "ssm_cfg.use_fast_path",
)
ORIGINAL_CONFIG = ConfigurationFormat(
    CONFIG_FILE,
    {"d_model": r"\d+"},
    original_fields,
    harmless=_HARMLESS,
    settings=("ssm_cfg.*", "attn_cfg.*"),
    adapted=with_ties,
)
TRANSFORMERS_CONFIG = ConfigurationFormat(
    CONFIG_FILE,
    {"model_type": "mamba", "architectures": r"Mamba(ForCausalLM|Model)"},
    transformers_fields,
    harmless=(
        *COMMON_FIELDS,
        *_HARMLESS,
        "tie_word_embeddings",
        "time_step_*",
        "rescale_prenorm_residual",
        "use_mambapy",
        "use_associative_scan",
    ),
    settings=("ssm_cfg.*", "attn_cfg.*", "auto_map.*"),
    adapted=with_ties,
)


def _published(size: str, perplexity: float) -> Published:
    weights = PublishedWeights(f"state-spaces/mamba-{size}", "Apache-2.0", None)
    return Published(perplexity, "Pile perplexity", 2048, None, "Gu & Dao 2023, table 3", weights)


_CONFIGURATIONS = (TRANSFORMERS_CONFIG, ORIGINAL_CONFIG)
FAMILY = Family(
    Mamba,
    VARIANTS,
    {
        "mamba_130m": _published("130m", 10.56),
        "mamba_370m": _published("370m", 8.28),
        "mamba_790m": _published("790m", 7.33),
        "mamba_1.4b": _published("1.4b", 6.80),
        "mamba_2.8b": _published("2.8b", 6.22),
    },
    (
        Format(
            "Mamba (state-spaces/mamba)",
            having(EMBEDDING_KEY, "backbone.layers.0.mixer.x_proj.weight"),
            with_head,
            _CONFIGURATIONS,
        ),
        Format("Mamba (transformers)", recognises_transformers, from_transformers, _CONFIGURATIONS),
    ),
    backbone_key,
    head_key,
    counted={
        "mamba_130m": Counted(129_135_360, 268.51),
        "mamba_370m": Counted(371_516_416, 771.63),
        "mamba_790m": Counted(793_204_224, 1640.64),
        "mamba_1.4b": Counted(1_372_178_432, 2831.76),
        "mamba_2.8b": Counted(2_768_345_600, 5705.47),
    },
)

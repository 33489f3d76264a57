"""Names in the checkpoints of `state-spaces/mamba` (`pytorch_model.bin`), and what transformers makes of them.

transformers renames the embedding, may leave out a head that is the embedding's matrix, and its `MambaModel` alone has
no prefix.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from mambarium.backbones.mamba import VARIANTS, Mamba
from mambarium.backbones.published.format import Format, Weights

EMBEDDING_KEY = "backbone.embedding.weight"
HEAD_KEY = "lm_head.weight"
TRANSFORMERS_EMBEDDING_KEY = "backbone.embeddings.weight"


def backbone_key(name: str) -> str:
    """The published key of a parameter of our `Mamba`."""
    return "backbone." + name.replace(".mixer.ssm.", ".mixer.")


def head_key(name: str) -> str:
    """The published key of a language model's "embedding.weight" or "head.weight"."""
    return {"embedding.weight": EMBEDDING_KEY, "head.weight": HEAD_KEY}[name]


def recognises_original(keys: Collection[str]) -> bool:
    """Whether these are the names of `MambaLMHeadModel`."""
    return EMBEDDING_KEY in keys and "backbone.layers.0.mixer.x_proj.weight" in keys


def recognises_transformers(keys: Collection[str]) -> bool:
    """Whether these are the names of transformers' `MambaForCausalLM` or `MambaModel`."""
    return any(
        f"{prefix}embeddings.weight" in keys and f"{prefix}layers.0.mixer.x_proj.weight" in keys
        for prefix in ("backbone.", "")
    )


def with_head(weights: Mapping[str, Tensor]) -> Weights:
    """A state dict whose head is the embedding's matrix if it has none of its own."""
    return {HEAD_KEY: weights[EMBEDDING_KEY], **weights}


def from_transformers(weights: Mapping[str, Tensor]) -> Weights:
    """A state dict of transformers with the original names."""
    prefix = "" if TRANSFORMERS_EMBEDDING_KEY in weights else "backbone."
    prefixed = {key if key == HEAD_KEY else prefix + key: value for key, value in weights.items()}
    embedding = prefixed.pop(TRANSFORMERS_EMBEDDING_KEY)
    return with_head({EMBEDDING_KEY: embedding, **prefixed})


def to_transformers(weights: Mapping[str, Tensor]) -> Weights:
    """A state dict with the original names under those of transformers."""
    return {TRANSFORMERS_EMBEDDING_KEY if key == EMBEDDING_KEY else key: value for key, value in weights.items()}


def transformers_config(backbone: Mamba, vocab_size: int, tied: bool) -> dict[str, Any]:
    """What `config.json` says of a language model, for transformers' `MambaConfig`.

    Args:
        backbone: The model's backbone.
        vocab_size: Number of tokens.
        tied: Whether the head is the embedding's matrix.
    """
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


ORIGINAL = Format("Mamba (state-spaces/mamba)", Mamba, VARIANTS, recognises_original, with_head, backbone_key, head_key)
TRANSFORMERS = Format(
    "Mamba (transformers)", Mamba, VARIANTS, recognises_transformers, from_transformers, backbone_key, head_key
)

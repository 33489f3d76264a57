"""Configurations that timm writes, and training scripts that build their models by it.

timm's hub files have a `config.json`; the scripts of DeiT, Vim, ConvNeXt, MambaOut and MambaVision keep their options,
an argparse namespace, in the files' entry "args".
"""

from collections.abc import Callable, Mapping
from typing import Any

from mambarium.backbones.published.configuration import CONFIG_FILE, ConfigurationFormat, Expected

_SOURCES = ("url", "file", "hf_hub_*", "source", "architecture", "tag", "custom_load", "first_conv", "classifier")
_PAPERS = ("license", "description", "origin_url", "paper_*", "notes")
_CLASSES = ("num_classes", "num_features", "label_*", "labels*")
_SIZES = ("test_*", "min_input_size", "fixed_input_size", "pool_size", "crop_mode")
_IMAGES = ("input_size", "mean", "std", "interpolation", "crop_pct")

# Initial values, dropout, and sizes that leave their trace in tensors.
_INITIAL = ("*drop_rate", "*drop_path_rate", "weight_init", "fix_init", "head_init_scale")
_HARMLESS_ARGUMENTS = ("img_size", "num_classes", *_INITIAL, "dynamic_img_*", "strict_img_size", "device", "dtype")

# Options of the training scripts that don't reach the model, or reach it as dropout, initial values or sizes with a
# trace in tensors.
_OPTIMISATION = ("*batch_size", "*epoch*", "*lr*", "*decay*", "*warmup*", "opt*", "sched*", "momentum", "clip_*")
_AUGMENTATION = ("*mixup*", "*cutmix*", "aa", "*aug*", "color_jitter*", "ThreeAugment", "src", "?flip", "scale")
_RANDOMNESS = ("ratio", "re[pmcs]*", "seed")  # random erasing, resplit, resume, recovery
_LOSSES = ("ema*", "model_ema*", "smoothing", "jsd*", "bce*", "*loss*", "mesa", "teacher_*", "distillation_*", "cosub")
_DATA = ("train_*", "interpolation", "crop_*", "data*", "dataset*", "class_map", "inat_category", "val*", "tta")
_SIZES_OF_MODEL = ("nb_classes", "num_classes", "*input_size", "img_size", "drop*", "layer_scale_init_value")
_STARTS = ("head_init_*", "finetune*", "pretrained*", "initial_checkpoint", "start_*", "auto_resume")
_SWITCHES = ("no_aug", "no_ddp_bb", "no_prefetcher", "no_resume_opt", "eval*", "*_eval", "unscale_lr", "attn_only")
_MACHINES = ("device*", "gpu", "rank", "local_rank", "world_size", "dist*", "sync_bn", "bn_momentum", "*workers")
_SPEED = ("pin_mem*", "prefetcher", "use_multi_epochs_loader", "*amp*", "channels_last", "torchscript", "fuser")
_STEPS = ("torchcompile", "fast_norm", "grad_*", "update_freq", "if_continue_inf", "if_nan2num")
_RECORDS = ("log*", "*wandb*", "output*", "experiment*", "save*", "checkpoint_hist", "tag")
_TRAINING = (
    *(*_OPTIMISATION, *_AUGMENTATION, *_RANDOMNESS, *_LOSSES, *_DATA, *_SIZES_OF_MODEL),
    *(*_STARTS, *_SWITCHES, *_MACHINES, *_SPEED, *_STEPS, *_RECORDS),
)


def timm_config(
    architectures: str, pooling: str, arguments: Callable[[Any], Mapping[str, Expected]]
) -> ConfigurationFormat:
    """Timm's `config.json`: what of a family's classifier `global_pool` is, and its constructor's arguments.

    `architectures` is a regular expression of the names of timm's models that compute as our family.
    """

    def expected(backbone: Any) -> dict[str, Expected]:
        inside = {f"model_args.{name}": value for name, value in arguments(backbone).items()}
        pools = Expected((pooling, "", None))
        return inside | {
            "global_pool": pools,
            "model_args.global_pool": pools,
            "model_args.in_chans": Expected((3,)),
        }

    return ConfigurationFormat(
        CONFIG_FILE,
        {"architecture": architectures},
        expected,
        harmless=(
            *_CLASSES,
            *(f"pretrained_cfg.{name}" for name in (*_SOURCES, *_PAPERS, *_CLASSES, *_SIZES)),
            *(f"model_args.{name}" for name in _HARMLESS_ARGUMENTS),
        ),
        settings=("model_args.*",),
        images=tuple(f"pretrained_cfg.{name}" for name in _IMAGES),
    )


def training_options(
    models: str,
    arguments: Callable[[Any], Mapping[str, Expected]] = lambda backbone: {},
    options: Callable[[Any], Mapping[str, Expected]] = lambda backbone: {},
) -> ConfigurationFormat:
    """Return the namespace "args" of a training script: its option "model_kwargs", and others, for a backbone.

    `models` is a regular expression of the names in the script's code, its option "model", that compute as our family.
    """

    def expected(backbone: Any) -> dict[str, Expected]:
        inside = {f"model_kwargs.{name}": value for name, value in arguments(backbone).items()}
        shared = {"in_chans": Expected((3, None)), "bn_eps": Expected((None,)), "split_bn": Expected((False,))}
        return {**shared, **inside, **options(backbone)}

    return ConfigurationFormat(
        "args",
        {"model": models},
        expected,
        harmless=(*_TRAINING, *(f"model_kwargs.{name}" for name in _HARMLESS_ARGUMENTS)),
        settings=("model_kwargs.*",),
        images=("mean", "std"),
    )

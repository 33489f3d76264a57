"""What every vision backbone promises, tested on a small instance of each family."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from mambarium.backbones import (
    LSTM,
    S4D,
    BlockStateTransformer,
    ConvNeXt,
    LocalVim,
    LocalVMamba,
    Mamba,
    MambaOut,
    MambaVision,
    MambaYOLO,
    MoEMamba,
    SequenceOnImages,
    Swin,
    Transformer,
    Vim,
    VisionBackbone,
    VisionFeatures,
    ViT,
    VMamba,
    initialize,
)
from mambarium.backbones.layers.drop_path import DropPath
from mambarium.backbones.recomputation import recompute_activations
from mambarium.errors import InputError


@dataclass
class Family:
    """A small instance, image sizes it takes and one that it refuses, if there is any."""

    build: Callable[[], VisionBackbone]
    sizes: list[tuple[int, int]]
    refused: tuple[int, int] | None


FAMILIES = {
    "vim": Family(
        lambda: Vim(image_size=16, patch_size=4, width=16, depth=3, d_state=2, drop_path=0.2, dropout=0.1),
        [(16, 16), (4, 4), (12, 20), (28, 8)],
        (16, 18),
    ),
    "vim_without_class_token": Family(
        lambda: Vim(image_size=8, patch_size=1, width=16, depth=2, d_state=2, class_token=False),
        [(8, 8), (5, 3), (1, 1)],
        None,
    ),
    "vim_overlapping_patches": Family(
        lambda: Vim(image_size=12, patch_size=4, stride=2, width=16, depth=2, d_state=2),
        [(12, 12), (4, 4), (6, 14)],
        (2, 12),
    ),
    "vmamba": Family(
        lambda: VMamba(depths=(1, 2, 1), widths=(8, 16, 24), ssm_ratio=2.0, mlp_ratio=2.0, drop_path=0.2),
        [(32, 32), (33, 47), (5, 1)],
        None,
    ),
    "vmamba_stem_stride_1": Family(
        lambda: VMamba(depths=(1, 1), widths=(9, 12), stem_stride=1, d_state=2, mlp_ratio=0.0),
        [(8, 8), (7, 9)],
        None,
    ),
    "vmamba_v0": Family(
        lambda: VMamba("v0", depths=(1, 2, 1), widths=(8, 16, 24), d_state=2, ssm_ratio=2.0, mlp_ratio=0.0),
        [(32, 32), (36, 20), (4, 8)],
        (34, 32),
    ),
    "mambavision": Family(
        lambda: MambaVision(
            depths=(1, 2, 3), width=8, num_heads=(2, 4), window_sizes=(3, 2), d_state=4, layer_scale=0.5, drop_path=0.2
        ),
        [(32, 32), (33, 47), (5, 1)],
        None,
    ),
    "mambavision_ablated": Family(
        lambda: MambaVision(
            depths=(2, 3),
            width=16,
            num_heads=(2, 4),
            window_sizes=(4, 8),
            stem_stride=1,
            d_conv=4,
            attention="alternating_attention_first",
            causal=True,
            symmetric_branch=False,
            combine="gate",
        ),
        [(8, 8), (7, 9)],
        None,
    ),
    "mambaout": Family(
        lambda: MambaOut(depths=(1, 2, 1), widths=(8, 16, 24), kernel_size=5, drop_path=0.2),
        [(32, 32), (33, 47), (5, 1)],
        None,
    ),
    "mambaout_with_ssm": Family(
        lambda: MambaOut(depths=(1, 1), widths=(8, 12), kernel_size=3, ssm=True, d_state=4),
        [(16, 16), (17, 9)],
        None,
    ),
    "mambaout_stem_stride_1": Family(
        lambda: MambaOut(depths=(1, 1), widths=(9, 12), stem_stride=1, kernel_size=3, conv_ratio=0.5),
        [(8, 8), (7, 9)],
        None,
    ),
    "local_vim": Family(
        lambda: LocalVim(
            16, 4, 16, (("rows", "window_2_backwards"), ("columns_backwards", "window_3")), d_state=2, drop_path=0.2
        ),
        [(16, 16), (4, 4), (12, 20)],
        (16, 18),
    ),
    "local_vim_class_token": Family(
        lambda: LocalVim(
            6, 2, 16, (("rows_backwards", "window_2"), ("columns", "window_2_backwards")), d_state=2, class_token=True
        ),
        [(6, 6), (2, 2), (10, 4)],
        (5, 4),
    ),
    "local_vmamba": Family(
        lambda: LocalVMamba(
            (1, 2),
            (16, 24),
            (("rows", "window_3"), ("columns_backwards",), ("window_2_backwards",)),
            2,
            2,
            drop_path=0.2,
        ),
        [(16, 16), (14, 10), (2, 2)],
        (15, 16),
    ),
    "mamba_yolo": Family(
        lambda: MambaYOLO(depths=(1, 2), widths=(9, 12), d_state=2, drop_path=0.2),
        [(16, 16), (14, 9), (1, 1)],
        None,
    ),
    "mamba_yolo_stem_stride_2": Family(
        lambda: MambaYOLO(depths=(1, 1), widths=(8, 12), stem_stride=2, d_state=2, ssm_ratio=1.0),
        [(8, 8), (5, 9)],
        None,
    ),
    "vit": Family(
        lambda: ViT(image_size=16, patch_size=4, width=16, depth=2, num_heads=2, drop_path=0.2),
        [(16, 16), (4, 4), (12, 20)],
        (16, 18),
    ),
    "swin": Family(
        lambda: Swin(depths=(2, 2), width=8, num_heads=(2, 4), window_size=3, drop_path=0.2),
        [(32, 32), (36, 20), (4, 8)],
        (34, 32),
    ),
    "swin_patch_size_1": Family(
        lambda: Swin(depths=(1, 1), width=8, num_heads=(1, 1), window_size=4, patch_size=1),
        [(8, 8), (7, 9)],
        None,
    ),
    "convnext": Family(
        lambda: ConvNeXt(depths=(1, 2), widths=(8, 12), layer_scale=0.5, drop_path=0.2),
        [(32, 32), (40, 16), (8, 8)],
        (36, 32),
    ),
    "convnext_patch_size_1": Family(
        lambda: ConvNeXt(depths=(2, 1), widths=(8, 16), patch_size=1, layer_scale=0.5),
        [(8, 8), (2, 6)],
        (7, 8),
    ),
    "mamba_on_images": Family(
        lambda: SequenceOnImages(Mamba(8, 2, d_state=2, dropout=0.1), 16, 4), [(16, 16), (4, 4), (12, 20)], (16, 18)
    ),
    "lstm_on_images": Family(lambda: SequenceOnImages(LSTM(8, 1), 8, 2, ("columns",)), [(8, 8), (4, 6)], (7, 8)),
    "s4d_on_images": Family(
        lambda: SequenceOnImages(S4D(8, 1, d_state=4), 8, 2, ("window_2", "window_2_backwards")),
        [(8, 8), (6, 10)],
        (8, 7),
    ),
    "transformer_on_images": Family(
        lambda: SequenceOnImages(Transformer(8, 1, num_heads=2), 4, 1, ("columns_backwards",)), [(4, 4), (3, 5)], None
    ),
    "moe_mamba_on_images": Family(
        lambda: SequenceOnImages(MoEMamba(8, 1, num_experts=2, d_state=2), 8, 2, ("rows", "rows_backwards")),
        [(8, 8), (4, 6)],
        (7, 8),
    ),
    "block_state_transformer_on_images": Family(
        lambda: SequenceOnImages(
            BlockStateTransformer(8, 2, num_heads=2, window_size=4, context_layers=[0], d_state=4, mlp_width=9), 8, 2
        ),
        [(8, 8), (4, 6)],
        (7, 8),
    ),
}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture
def backbone(family: Family) -> VisionBackbone:
    torch.manual_seed(0)
    return family.build().eval()


def images(size: tuple[int, int], batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_maps_have_the_promised_sizes(backbone: VisionBackbone, family: Family) -> None:
    for height, width in family.sizes:
        features = backbone(images((height, width)))
        assert len(features.maps) == len(backbone.feature_info)
        for found, (channels, stride) in zip(features.maps, backbone.feature_info, strict=True):
            assert found.shape == (2, channels, -(-height // stride), -(-width // stride))
            assert found.isfinite().all()
        assert backbone.classifier(7).eval()(features).shape == (2, 7)


def test_feature_info_goes_from_fine_to_coarse(backbone: VisionBackbone) -> None:
    strides = [info.stride for info in backbone.feature_info]
    assert strides == sorted(strides)


def test_stages_partition_the_parameters(backbone: VisionBackbone) -> None:
    names = [name for stage in backbone.stages() for name in stage]
    assert sorted(names) == sorted(name for name, _ in backbone.named_parameters())
    assert all(backbone.stages())


def test_depths_rise_from_stem_to_last_layer(backbone: VisionBackbone) -> None:
    depths = [[backbone.depth_of(name) for name in stage] for stage in backbone.stages()]
    assert set(depths[0]) == {0}
    for before, after in pairwise(depths):
        assert max(before) < min(after)
    assert {depth for stage in depths for depth in stage} == set(range(backbone.max_depth + 1))


def unused_parameters(module: nn.Module) -> list[str]:
    return [name for name, p in module.named_parameters() if p.grad is None or not (p.grad.abs().max() > 0).item()]


def test_gradients_reach_every_parameter(backbone: VisionBackbone, family: Family) -> None:
    dense = backbone(images(family.sizes[0]))
    sum(feature_map.pow(2).sum() for feature_map in dense.maps).backward()
    assert unused_parameters(backbone) == []

    backbone.zero_grad()
    head = backbone.classifier(7)
    head(backbone(images(family.sizes[0]))).pow(2).sum().backward()
    assert unused_parameters(backbone) == []
    assert unused_parameters(head) == []


@torch.no_grad()
def test_samples_do_not_mix(backbone: VisionBackbone, family: Family) -> None:
    batch = images(family.sizes[0], batch=3)
    together, alone = backbone(batch), backbone(batch[1:2])
    for found, expected in zip(together.maps, alone.maps, strict=True):
        torch.testing.assert_close(found[1:2], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_deterministic_in_evaluation(backbone: VisionBackbone, family: Family) -> None:
    batch = images(family.sizes[0])
    assert torch.equal(backbone(batch).maps[-1], backbone(batch).maps[-1])


@torch.no_grad()
def test_bfloat16_autocast_stays_near_float32(backbone: VisionBackbone, family: Family) -> None:
    batch = images(family.sizes[0])
    expected = backbone(batch).maps[-1]
    with torch.autocast("cpu", torch.bfloat16):
        features = backbone(batch)
        logits = backbone.classifier(7)(features)
    assert (features.maps[-1].float() - expected).norm() < 0.05 * expected.norm()
    assert logits.isfinite().all()


def test_sizes_that_do_not_fit_are_refused(backbone: VisionBackbone, family: Family) -> None:
    if family.refused is None:
        assert backbone.size_divisibility == 1
        return
    with pytest.raises(InputError, match=f"{family.refused[0]}x{family.refused[1]}"):
        backbone(images(family.refused))


@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (3, 16, 16)])
def test_images_without_three_channels_are_refused(backbone: VisionBackbone, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"\(batch, 3, height, width\)"):
        backbone(torch.zeros(shape))


@pytest.mark.parametrize("name", FAMILIES)
def test_built_without_memory_and_then_initialised(name: str) -> None:
    def build() -> nn.ModuleList:
        backbone = FAMILIES[name].build()
        return nn.ModuleList([backbone, backbone.classifier(5)])

    torch.manual_seed(3)
    expected = build()
    with torch.device("meta"):
        model = build()
    model.to_empty(device="cpu")
    torch.manual_seed(3)
    initialize(model)
    for key, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


@torch.no_grad()
def test_vim_class_token_keeps_its_own_position_at_other_sizes() -> None:
    torch.manual_seed(0)
    backbone = Vim(image_size=8, patch_size=2, width=8, depth=1).eval()
    backbone.pos_embed.zero_()
    backbone.pos_embed[:, 8] = 5.0  # the class token's row, between the 16 patches
    backbone.layers = nn.ModuleList()
    features: VisionFeatures = backbone(images((12, 8)))
    assert features.class_token is not None
    torch.testing.assert_close(features.class_token, (backbone.cls_token[:, 0] + 5.0).expand(2, -1))
    patches = backbone.patch_embed(images((12, 8)))
    torch.testing.assert_close(features.maps[0].flatten(2).transpose(1, 2), patches)


@torch.no_grad()
@pytest.mark.parametrize(("patch_size", "stride"), [(4, 2), (6, 2), (4, 1)])
def test_cells_of_overlapping_patches_lie_where_the_patches_do(patch_size: int, stride: int) -> None:
    backbone = Vim(12, patch_size, stride, width=8, depth=1, d_state=2)
    backbone.layers = nn.ModuleList()
    backbone.pos_embed.zero_()
    backbone.patch_embed.proj.weight.fill_(1 / (3 * patch_size**2))  # a patch's mean, so its centre's position
    backbone.patch_embed.proj.bias.zero_()
    rows = (torch.arange(12.0) + 0.5)[:, None].expand(12, 12)
    column_of_cells = backbone(rows.expand(1, 3, 12, 12)).maps[0][0, 0, :, 3]
    centres = (torch.arange(12 // stride) + 0.5) * stride
    expected = centres.clamp(patch_size / 2, 12 - patch_size / 2)  # beyond the outermost patches their values
    torch.testing.assert_close(column_of_cells, expected)


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    backbone = MambaOut(depths=(1, 1), widths=(8, 8), drop_path=0.5).train()
    last = backbone.blocks[1][0].drop_path
    kept = last(torch.ones(4000, 2, 3))
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert (kept == kept[:, :1, :1]).all()
    assert abs(kept.mean().item() - 1.0) < 0.06
    assert torch.equal(backbone.blocks[0][0].drop_path(torch.ones(9, 2)), torch.ones(9, 2))


@pytest.mark.parametrize(
    "build",
    [
        lambda: Vim(patch_size=4, stride=3),
        lambda: Vim(image_size=30, patch_size=4),
        lambda: MambaOut(depths=(1, 1), widths=(8,)),
        lambda: MambaOut(kernel_size=4),
        lambda: MambaOut(kernel_size=-1),
        lambda: MambaOut(conv_ratio=3.0),
        lambda: MambaOut(conv_ratio=0.01),
        lambda: MambaOut(depths=(1, 0), widths=(8, 8)),
        lambda: MambaOut(depths=(1, 1), widths=(1, 8)),
        lambda: MambaOut(depths=(1, 1), widths=(8, 0)),
        lambda: MambaOut(drop_path=1.0),
        lambda: MambaOut(ssm=True, d_state=0),
        lambda: MambaOut(stem_stride=3),
        lambda: MambaVision(depths=(1, 1), num_heads=(4, 8), window_sizes=(7,)),
        lambda: MambaVision(depths=(1,), num_heads=(4, 8), window_sizes=(7, 7)),
        lambda: MambaVision(depths=(1, 1), num_heads=(), window_sizes=()),
        lambda: MambaVision(depths=(1, 0, 1, 1)),
        lambda: MambaVision(width=0),
        lambda: MambaVision(width=9, num_heads=(1, 1, 1, 1), window_sizes=(7, 7, 7, 7)),
        lambda: MambaVision(num_heads=(3, 8)),
        lambda: MambaVision(num_heads=(0, 8)),
        lambda: MambaVision(window_sizes=(14, 0)),
        lambda: MambaVision(stem_stride=3),
        lambda: MambaVision(stem_width=0),
        lambda: MambaVision(mlp_ratio=0.0),
        lambda: MambaVision(d_state=0),
        lambda: MambaVision(d_conv=5),
        lambda: MambaVision(attention="middle"),
        lambda: MambaVision(combine="add"),
        lambda: MambaVision(drop_path=1.0),
        lambda: Vim(width=0),
        lambda: Vim(depth=0),
        lambda: Vim(d_state=0),
        lambda: Vim(expand=0),
        lambda: Vim(dt_rank=0),
        lambda: Vim(d_conv=1),
        lambda: Vim(d_conv=5),
        lambda: Vim(patch_size=0),
        lambda: Vim(drop_path=-0.1),
        lambda: Vim(dropout=1.0),
        lambda: VMamba("v1"),
        lambda: VMamba(depths=(1, 1), widths=(8,)),
        lambda: VMamba(depths=(1, 0), widths=(8, 8)),
        lambda: VMamba(depths=(1, 1), widths=(8, 1)),
        lambda: VMamba(d_state=0),
        lambda: VMamba(ssm_ratio=0.01),
        lambda: VMamba(mlp_ratio=-1.0),
        lambda: VMamba(stem_stride=3),
        lambda: VMamba(drop_path=1.0),
        lambda: DropPath(1.0),
        lambda: LocalVim(width=18),
        lambda: LocalVim(image_size=30, patch_size=4),
        lambda: LocalVim(patch_size=0),
        lambda: LocalVim(routes=()),
        lambda: LocalVim(routes=((),)),
        lambda: LocalVim(routes=(("diagonals",),)),
        lambda: LocalVim(d_state=0),
        lambda: LocalVim(drop_path=1.0),
        lambda: LocalVMamba(depths=(1, 1), widths=(8,)),
        lambda: LocalVMamba(depths=(2, 0), widths=(8, 8)),
        lambda: LocalVMamba(depths=(1, 1), widths=(8, 8)),
        lambda: LocalVMamba(widths=(8, 0)),
        lambda: LocalVMamba(routes=(("rows",), ("rows",), ("rows",), ())),
        lambda: LocalVMamba(stem_stride=3),
        lambda: LocalVMamba(d_state=0),
        lambda: LocalVMamba(ssm_ratio=0.01),
        lambda: LocalVMamba(drop_path=1.0),
        lambda: MambaYOLO(depths=(1, 1), widths=(8,)),
        lambda: MambaYOLO(depths=(0, 1), widths=(8, 8)),
        lambda: MambaYOLO(depths=(1,), widths=(1,)),
        lambda: MambaYOLO(stem_stride=3),
        lambda: MambaYOLO(d_state=0),
        lambda: MambaYOLO(ssm_ratio=0.01),
        lambda: MambaYOLO(drop_path=1.0),
        lambda: ViT(width=9, num_heads=2),
        lambda: ViT(image_size=30, patch_size=4),
        lambda: ViT(depth=0),
        lambda: ViT(mlp_ratio=0.0),
        lambda: ViT(drop_path=1.0),
        lambda: Swin(depths=(1,), num_heads=(1,)),
        lambda: Swin(depths=(1, 1), num_heads=(1,)),
        lambda: Swin(depths=(1, 1), width=9, num_heads=(2, 2)),
        lambda: Swin(window_size=0),
        lambda: Swin(drop_path=1.0),
        lambda: ConvNeXt(depths=(1,), widths=(8,)),
        lambda: ConvNeXt(depths=(1, 1), widths=(8,)),
        lambda: ConvNeXt(depths=(1, 1), widths=(8, 0)),
        lambda: ConvNeXt(patch_size=0),
        lambda: ConvNeXt(drop_path=1.0),
        lambda: SequenceOnImages(Mamba(8, 1), image_size=10, patch_size=4),
        lambda: SequenceOnImages(Mamba(8, 1), patch_size=0),
        lambda: SequenceOnImages(Mamba(8, 1), routes=()),
        lambda: SequenceOnImages(Mamba(8, 1), routes=("diagonals",)),
        lambda: SequenceOnImages(Mamba(8, 1), routes=("window_0",)),
    ],
)
def test_arguments_that_do_not_fit_are_refused(build: Callable[[], VisionBackbone]) -> None:
    with pytest.raises(InputError) as error:
        build()
    assert "\n" not in str(error.value)


def saved_bytes_and_gradients(model: VisionBackbone, x: Tensor) -> tuple[int, list[Tensor | None]]:
    saved = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved += tensor.nbytes
        return tensor

    torch.manual_seed(3)
    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(x)
    total = sum(found.square().mean() for found in output.maps) + sum(output.auxiliary_losses.values())
    if output.class_token is not None:
        total = total + output.class_token.square().mean()
    total.backward()
    return saved, [parameter.grad for parameter in model.parameters()]


def test_activations_are_recomputed(backbone: VisionBackbone, family: Family) -> None:
    backbone.train()
    x = images(family.sizes[0])
    kept, expected = saved_bytes_and_gradients(backbone, x)
    recompute_activations(backbone)
    kept_less, found = saved_bytes_and_gradients(backbone, x)
    assert kept_less < kept
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


COMPILED = [
    "vim",
    "vmamba",
    "mambavision",
    "mambaout",
    "local_vim",
    "local_vmamba",
    "mamba_yolo",
    "vit",
    "swin",
    "convnext",
]


@pytest.mark.thorough
@torch.no_grad()
@pytest.mark.parametrize("graph_of", [*COMPILED, "mamba_on_images"])
def test_one_compiled_graph(graph_of: str) -> None:
    torch.manual_seed(0)
    model = FAMILIES[graph_of].build().eval()
    x = images(FAMILIES[graph_of].sizes[0])

    def coarsest_map(x: Tensor) -> Tensor:
        return model(x).maps[-1]

    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(coarsest_map, backend="eager", fullgraph=True)(x), coarsest_map(x))

"""Every building block of LGANet++ against the same block of the released code."""

import json

import numpy as np
import pytest
import torch

from regnet_lib.models.lganetpp import VARIANTS, AttentionDecoder, LGANetPP, RefinementDecoder
from regnet_lib.nn.attention import (
    GlobalAttention,
    LocalAttention,
    LocalGlobalBlock,
    PositionAttention,
)
from regnet_lib.nn.blocks import FeaturePyramid, PairedResidual
from regnet_lib.nn.correlation import local_correlation
from regnet_lib.nn.decomposition import Decomposition, DecompositionExchange
from regnet_lib.nn.fusion import ChannelWiseFusion, ScaleProduct
from regnet_lib.spatial import integrate, resize, warp

pytestmark = pytest.mark.golden
VARIANT = VARIANTS["official"]

# Where each unit sits: official prefix, our prefix.
PLACES = {
    "pam": ("deblock4.pa.", "decoders.4.position_attention."),
    "gsa": ("deblock4.swin.0.attn.lsa.", "decoders.4.blocks.0.global_attention."),
    "lsa": ("deblock4.swin.0.attn.gsa.", "decoders.4.blocks.0.local_attention."),
    "lga": ("deblock4.swin.0.attn.", "decoders.4.blocks.0."),
    "resnet": ("deblock1.resnet.", "decoders.1.residual."),
    "nff": ("deblock1.nff.", "decoders.1.fuse."),
    "fifm": ("deblock2.idm.idm.", "decoders.2.exchange.decompose."),
    "idm": ("deblock2.idm.", "decoders.2.exchange."),
    "sdi": ("sdi_1.", "msfm.products.0."),
    "encoder": ("encoder.", "encoder."),
    "decoder_fine": ("deblock2.", "decoders.2."),
    "decoder_top": ("deblock1.", "decoders.1."),
    "decoder_lgam": ("deblock4.", "decoders.4."),
}


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=["32 bit", "64 bit"])
def dtype(request):
    return request.param


@pytest.fixture(scope="module")
def arrays(lganet_folder, dtype):
    """Inputs and the released outputs, stored in float32, in the type under test."""
    with np.load(lganet_folder / "units.npz") as stored:
        return {name: torch.from_numpy(stored[name]).to(dtype) for name in stored}


@pytest.fixture(scope="module")
def build(lganet_folder, recipe, dtype):
    """Fill a module with the golden weights of a unit, through the key map of the whole network."""
    shapes = json.loads((lganet_folder / "units.json").read_text())["params"]
    keys = LGANetPP.official_keys

    def fill(unit, module):
        official, ours = PLACES[unit]
        values = {}
        for name, shape in shapes[unit].items():
            if not keys.is_dead(official + name):
                renamed = keys.rename(official + name)
                assert renamed.startswith(ours), (name, renamed)
                value = recipe.value(f"unit/{unit}", name, tuple(shape))
                values[renamed.removeprefix(ours)] = torch.from_numpy(value)
        module.load_state_dict(values)
        return module.eval().requires_grad_(False).to(dtype)

    return fill


def close(found, expected, atol=1e-4):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("zoomed", [False, True])
def test_warp(arrays, zoomed):
    name = f"stn.out_ac_{'false' if zoomed else 'true'}"
    image, field, labels = arrays["stn.src"], arrays["stn.flow"], arrays["stn.label"]
    close(warp(image, field, zoomed=zoomed), arrays[f"{name}_bilinear"])
    nearest = warp(labels.long(), field, interpolation="nearest", zoomed=zoomed)
    assert torch.equal(nearest.to(field), arrays[f"{name}_nearest"])


def test_warp_by_zero_is_a_zoom_in_the_released_evaluation(arrays):
    expected = arrays["stn.out_ac_false_bilinear_zero_flow"]
    close(warp(arrays["stn.src"], torch.zeros_like(arrays["stn.flow"]), zoomed=True), expected)


def test_integrate(arrays):
    close(integrate(arrays["vecint.vec"], padding="zeros"), arrays["vecint.out"])


def test_correlation(arrays):
    close(local_correlation(arrays["corr.x1"], arrays["corr.x2"]), arrays["corr.out"], atol=1e-6)


@pytest.mark.parametrize(
    ("unit", "case", "module"),
    [
        ("pam", "pam", lambda: PositionAttention(16)),
        ("gsa", "gsa", lambda: GlobalAttention(64)),
        ("lsa", "lsa_a", lambda: LocalAttention(64)),
        ("lsa", "lsa_b", lambda: LocalAttention(64)),
        ("lga", "lga", lambda: LocalGlobalBlock(64)),
        ("resnet", "resnet", lambda: PairedResidual(12)),
    ],
)
def test_one_map_in_one_map_out(build, arrays, unit, case, module):
    close(build(unit, module())(arrays[f"{case}.x"]), arrays[f"{case}.out"], atol=2e-4)


def test_channel_wise_fusion(build, arrays):
    fuse = build("nff", ChannelWiseFusion(8))
    close(fuse(*(arrays[f"nff.x{index}"] for index in range(3))), arrays["nff.out"])


def test_decomposition(build, arrays):
    parts = build("fifm", Decomposition(8))(arrays["fifm.x"])
    close(parts.field, arrays["fifm.flow"])
    close(parts.residual, arrays["fifm.M"])
    assert parts.field.min() >= 0


def test_decomposition_exchange(build, arrays):
    exchange = build("idm", DecompositionExchange(8))
    warped, displacement = exchange(exchange.decompose(arrays["idm.fixed"]), arrays["idm.warped"])
    close(warped, arrays["idm.w"])
    close(displacement, arrays["idm.flow"])


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_scale_product(build, arrays, level):
    product = build("sdi", ScaleProduct(4, 8))
    fixed, moving = ([arrays[f"sdi.x{k}"] for k in ks] for ks in (range(4), range(4, 8)))
    pairs = [torch.cat(pair) for pair in zip(moving, fixed, strict=True)]
    expected = arrays[f"sdi.out_level{level}"]
    close(product(pairs, expected.shape[2:]), expected)


def test_encoder(build, arrays):
    features = build("encoder", FeaturePyramid((8, 16, 32, 64)))(arrays["encoder.x"])
    for level, found in enumerate(features, start=1):
        close(found, arrays[f"encoder.out{level}"])


@pytest.mark.parametrize(("unit", "exchanges"), [("decoder_fine", 2), ("decoder_top", 0)])
def test_refinement_decoder(build, arrays, unit, exchanges):
    decoder = build(unit, RefinementDecoder(8, VARIANT, exchanges))
    maps = [arrays[f"decoder_fine.{name}"] for name in "MFC"]
    coarser = resize(arrays["decoder_fine.flow"], maps[0].shape[2:])
    close(decoder(*maps, coarser), arrays[f"{unit}.out"], atol=5e-4)


def test_attention_decoder(build, arrays):
    decoder = build("decoder_lgam", AttentionDecoder(16, VARIANT))
    maps = [arrays[f"decoder_lgam.{name}"] for name in "MFC"]
    close(decoder(*maps), arrays["decoder_lgam.out"], atol=5e-4)

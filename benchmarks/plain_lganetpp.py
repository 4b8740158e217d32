"""LGANet++ written down as its released algebra reads, the contender of the benchmark.

Same weights, same result, none of the rearrangements of `regnet_lib`: each image passes the
encoder by itself, normalisation and activation are layers of PyTorch, 27 mean products are
concatenated, attention maps are materialised, and the decomposition of the fixed features is
evaluated again in every exchange. Sampling grids are built once per size and kept.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regnet_lib.models.lganetpp import LGANetPP
from regnet_lib.nn.attention import LocalGlobalBlock, PositionAttention, TokenAttention
from regnet_lib.nn.blocks import FeaturePyramid, InstanceNormActivation, PairedResidual
from regnet_lib.nn.decomposition import Decomposition
from regnet_lib.nn.fusion import ChannelWiseFusion, MultiScaleFusion


class PlainLGANetPP(nn.Module):
    """Runs the layers of a `LGANetPP` in the plain order; shares its parameters."""

    def __init__(self, model: LGANetPP) -> None:
        super().__init__()
        self.model = model
        self.warp = PlainWarp()

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        model = self.model
        moving_levels, fixed_levels = _encode(model.encoder, moving), _encode(model.encoder, fixed)
        fused = _fuse_scales(model.msfm, moving_levels, fixed_levels)
        displacement = None
        for decoder, m, f, c in zip(
            model.decoders.values(),
            moving_levels[::-1],
            fixed_levels[::-1],
            fused[::-1],
            strict=True,
        ):
            correlated = m + decoder.correlate.conv(_correlation(m, f))
            if displacement is None:
                features = decoder.merge(torch.cat([correlated, f, c], dim=1))
                features = _residual(
                    decoder.residual, _position_attention(decoder.position_attention, features)
                )
                for block in decoder.blocks:
                    features = _local_global(block, features)
                displacement = self.integrate(decoder.head(features))
                continue
            coarser = _enlarge(2 * displacement)
            warped = self.warp(correlated, coarser)
            steps = []
            for _ in range(decoder.exchanges):
                warped, step = self.exchange(decoder.exchange.decompose, f, warped)
                steps.append(step)
            velocity = decoder.head(_residual(decoder.residual, _weigh(decoder.fuse, c, warped, f)))
            if steps:
                aligned = self.warp(steps[0], steps[1]) + steps[1]
                velocity = self.warp(aligned, velocity) + velocity
            own = self.integrate(velocity)
            displacement = self.warp(coarser, own) + own
        return displacement

    def exchange(self, decompose: Decomposition, f: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        fixed_field, fixed_residual = _decompose(decompose, f)
        own_field, own_residual = _decompose(decompose, w)
        warped = w + self.warp(fixed_residual, own_field) + self.warp(own_residual, fixed_field)
        velocity = self.warp(fixed_field, own_field) + self.warp(own_field, fixed_field)
        return warped, self.integrate(velocity)

    def integrate(self, velocity: Tensor) -> Tensor:
        displacement = velocity / 2**7
        for _ in range(7):
            displacement = displacement + self.warp(displacement, displacement)
        return displacement


class PlainWarp:
    """Identity grid plus displacement, normalised axis by axis, sampled."""

    def __init__(self) -> None:
        self.grids: dict[tuple[int, ...], Tensor] = {}

    def __call__(self, image: Tensor, displacement: Tensor) -> Tensor:
        shape = tuple(displacement.shape[2:])
        if shape not in self.grids:
            axes = [torch.arange(side).to(displacement) for side in shape]
            self.grids[shape] = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
        positions = self.grids[shape] + displacement
        normalised = [2 * (positions[:, i] / (shape[i] - 1) - 0.5) for i in (2, 1, 0)]
        return F.grid_sample(image, torch.stack(normalised, dim=-1), align_corners=True)


def _one_by_one(layers: nn.Sequential, features: Tensor) -> Tensor:
    """PyTorch's own layers in a row; normalisation and activation by themselves."""
    for layer in layers:
        if isinstance(layer, nn.Sequential):
            features = _one_by_one(layer, features)
        elif isinstance(layer, InstanceNormActivation):
            features = F.instance_norm(features)
            features = F.leaky_relu(features, layer.slope) if layer.slope != 1 else features
        elif isinstance(layer, nn.ReLU):
            features = F.relu(features)
        else:
            features = layer(features)
    return features


def _encode(encoder: FeaturePyramid, image: Tensor) -> list[Tensor]:
    levels: list[Tensor] = []
    for level in encoder.levels:
        levels.append(_one_by_one(level, F.max_pool3d(levels[-1], 2) if levels else image))
    return levels


def _residual(block: PairedResidual, features: Tensor) -> Tensor:
    features = _one_by_one(block.entry, features)
    return features + _one_by_one(block.residual, features)


def _weigh(block: ChannelWiseFusion, *maps: Tensor) -> Tensor:
    shares = block.weigh(_one_by_one(block.merge, torch.cat(maps, dim=1))).softmax(dim=1)
    merged = torch.cat(
        [one * share for one, share in zip(maps, shares.split(1, 1), strict=True)], 1
    )
    average, maximum = F.adaptive_avg_pool3d(merged, 1), F.adaptive_max_pool3d(merged, 1)
    gate = torch.sigmoid(block.gate(average.flatten(1)) + block.gate(maximum.flatten(1)))
    return merged * gate[:, :, None, None, None]


def _decompose(layer: Decomposition, features: Tensor) -> tuple[Tensor, Tensor]:
    """Field and residual, every convolution by itself."""
    features = _one_by_one(layer.trunk, features)
    pair = nn.Sequential.forward
    return F.relu(pair(layer.field, features)), F.relu(pair(layer.residual, features))


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    depth, height, width = first.shape[2:]
    padded = F.pad(second, [1] * 6)
    channels = [
        (first * padded[:, :, i : i + depth, j : j + height, k : k + width]).mean(1, keepdim=True)
        for i in range(3)
        for j in range(3)
        for k in range(3)
    ]
    return torch.cat(channels, dim=1)


def _fuse_scales(msfm: MultiScaleFusion, m: list[Tensor], f: list[Tensor]) -> list[Tensor]:
    fixed = [layer(level) for layer, level in zip(msfm.reduce, f, strict=True)]
    moving = [layer(level) for layer, level in zip(msfm.reduce, m, strict=True)]
    fused = []
    for product, expand, target in zip(msfm.products, msfm.expand, f, strict=True):
        result = None
        for layer, level in zip((*product.fixed, *product.moving), (*fixed, *moving), strict=True):
            factor = layer(_fit(level, target.shape[2:]))
            result = factor if result is None else result * factor
        fused.append(expand(result))
    return fused


def _fit(level: Tensor, shape: torch.Size) -> Tensor:
    if level.shape[-1] > shape[-1]:
        return F.adaptive_avg_pool3d(level, shape)
    if level.shape[-1] < shape[-1]:
        return F.interpolate(level, size=shape, mode="trilinear", align_corners=True)
    return level


def _enlarge(displacement: Tensor) -> Tensor:
    return F.interpolate(displacement, scale_factor=2, mode="trilinear", align_corners=True)


def _position_attention(layer: PositionAttention, features: Tensor) -> Tensor:
    query, key, value = (
        part(features).flatten(2) for part in (layer.query, layer.key, layer.value)
    )
    weights = torch.softmax(query.transpose(1, 2) @ key, dim=-1)
    attended = (value @ weights.transpose(1, 2)).view(features.shape)
    return features + layer.gamma * attended


def _tokens(layer: TokenAttention, tokens: Tensor) -> Tensor:
    query, key, value = layer.query(tokens), layer.key(tokens), layer.value(tokens)
    weights = torch.softmax(query @ key.transpose(-2, -1) * layer.scale, dim=-1)
    return F.dropout(weights, layer.dropout, layer.training) @ value


def _local_global(block: LocalGlobalBlock, features: Tensor) -> Tensor:
    batch, channels, *shape = features.shape
    groups = (shape[0] // 6) * (shape[1] // 6) * (shape[2] // 6)
    for layer, count in ((block.global_attention, 1), (block.local_attention, groups)) * 2:
        normalised = block.norm(features.movedim(1, -1)).movedim(-1, 1).contiguous()
        tokens = normalised.view(batch, count, -1, channels)
        tokens = _tokens(layer.attention, tokens).view(batch, -1, channels)
        tokens = layer.projection(tokens).transpose(1, 2).reshape(batch, channels, *shape)
        features = features + block.feed_forward(tokens)
    return features

"""CycleMorph: two networks that undo each other's registration.

Kim et al., "CycleMorph: cycle consistent unsupervised deformable image registration", Medical Image
Analysis 71, 2021. G_A registers A to B, G_B registers B to A. Training asks that registering twice,
there and back, gives the image again, and that an image registered to itself stays.

Model card:

- repository: boahK/MEDIA_CycleMorph, with weights of a brain network G_A;
- licence: none; MIT for the form in the TransMorph repository;
- compared by: AD-RegNet, Table III, in the form of the TransMorph repository;
- parameters: 361,299 for G_A, which registration uses alone; training has both, 722,598;
- sizes: sides that are multiples of 16;
- deviations: outside the volume the released warp clamps indices behind one voxel of zeros, ours
  fades to zero. The article's second network at full resolution on patches, after this global one,
  is left out, as in the repositories.

    model = CycleMorph()
    registration = model(moving, fixed)   # (B, 1, D, H, W) twice, sides multiples of 16
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from regnet_lib.losses import Objective
from regnet_lib.models.official_weights import KeyMap
from regnet_lib.models.sizes import require_valid_images
from regnet_lib.nn.blocks import ConvActivation
from regnet_lib.nn.heads import DisplacementHead
from regnet_lib.spatial import warp
from regnet_lib.spatial.grid import next_multiple
from regnet_lib.types import Displacement, Image, Registration

ENCODER = (16, 32, 32, 32, 32)


class Doubling(nn.Module):
    """Transposed convolution to twice the size, concatenation behind the skip, convolution."""

    def __init__(self, channels: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose3d(channels, channels, 3, 2, padding=1, output_padding=1)
        self.merge = ConvActivation(skip + channels, outputs)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        return self.merge(torch.cat([skip, self.upsample(features)], dim=1))


class Generator(nn.Module):
    """One of the two networks: a U-Net with transposed convolutions, narrow at full resolution."""

    official_keys = KeyMap(
        renames=(
            (r"^model\.", ""),
            (r"^outconv\.upconv\.", "head."),
            (r"^inconv\.block\.block\.", "entry."),
            (r"^downconv1\.block\.block\.", "down.0."),
            (r"^downconv2\.block\.block\.", "down.1."),
            (r"^downconv3\.block\.block\.", "down.2."),
            (r"^downconv4\.block\.block\.", "down.3."),
            (r"^upconv1\.", "up.0."),
            (r"^upconv2\.", "up.1."),
            (r"^upconv3\.", "up.2."),
            (r"^upconv4\.", "last_up."),
            (r"\.upconv\.", ".upsample."),
            (r"\.block\.block\.", ".merge."),
            (r"^keepblock\.block\.", "narrow."),
        ),
    )

    def __init__(self) -> None:
        super().__init__()
        self.entry = ConvActivation(2, ENCODER[0])
        self.down = nn.ModuleList(
            ConvActivation(less, more, stride=2)
            for less, more in zip(ENCODER[:-1], ENCODER[1:], strict=True)
        )
        self.up = nn.ModuleList([Doubling(32, 32, 32) for _ in range(3)])
        self.narrow = ConvActivation(32, 8)
        self.last_up = Doubling(8, ENCODER[0], 8)
        self.head = DisplacementHead(8, std=1e-5)

    def forward(self, moving: Image, fixed: Image) -> Displacement:
        skips = [self.entry(torch.cat([moving, fixed], dim=1))]
        for down in self.down:
            skips.append(down(skips[-1]))
        features = skips.pop()
        for up in self.up:
            features = up(features, skips.pop())
        return self.head(self.last_up(self.narrow(features), skips.pop()))


class CycleMorph(nn.Module):
    """CycleMorph (Kim et al., 2021).

    Registers with G_A, `there`. An official checkpoint of G_A loads into `model.there`.

    Args:
        cycle_weight: alpha, of the mean absolute difference after there and back.
        identity_weight: beta, of the similarity of an image registered to itself.
    """

    def __init__(self, cycle_weight: float = 0.1, identity_weight: float = 0.5) -> None:
        super().__init__()
        self.there, self.back = Generator(), Generator()
        self.cycle_weight = cycle_weight
        self.identity_weight = identity_weight

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The nearest shape at least as large whose sides are multiples of 16."""
        return next_multiple(shape, 16)

    def forward(self, moving: Image, fixed: Image) -> Registration:
        rule = "sides that are multiples of 16"
        require_valid_images("CycleMorph", moving, fixed, self.valid_shape, rule)
        return Registration(self.there(moving, fixed))

    def training_loss(
        self, objective: Objective, moving: Image, fixed: Image
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of both networks, with its detached parts (unweighted means of both directions).

        The objective of both registrations, plus alpha times the cycle and beta times the identity
        term (Kim et al., equations 3 to 6).
        """
        there, back = self.there(moving, fixed), self.back(fixed, moving)
        warped_there, warped_back = warp(moving, there), warp(fixed, back)
        loss_there, parts = objective(there, moving, fixed)
        loss_back, parts_back = objective(back, fixed, moving)
        # Both warped images go round again: A -> B -> A and B -> A -> B.
        returned = warp(warped_there, self.back(warped_there, warped_back))
        returned_back = warp(warped_back, self.there(warped_back, warped_there))
        cycle = (returned - moving).abs().mean() + (returned_back - fixed).abs().mean()
        still = [
            objective.similarity_of(warp(image, network(image, image)), image)
            for network, image in ((self.there, fixed), (self.back, moving))
        ]
        identity = still[0] + still[1]
        loss = loss_there + loss_back
        loss = loss + self.cycle_weight * cycle + self.identity_weight * identity
        both = {name: (parts[name] + parts_back[name]) / 2 for name in parts}
        both |= {"loss": loss.detach(), "cycle": cycle.detach() / 2}
        return loss, both | {"identity": identity.detach() / 2}

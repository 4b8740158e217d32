"""VoxelMorph: the U-Net that every later method compares with.

Balakrishnan et al., "VoxelMorph: a learning framework for deformable medical image registration",
IEEE TMI 2019. Two networks, 1 and 2, which differ in the width of the last layers, and two
published forms of each:

| preset       | network       | parameters | what comes out                                       |
|--------------|---------------|------------|------------------------------------------------------|
| "transmorph" | `VoxelMorph1` | 274,387    | a displacement at full resolution                    |
| "transmorph" | `VoxelMorph2` | 301,411    | the same; the rows of AD-RegNet Table III            |
| "official"   | `VoxelMorph1` | 276,523    | a velocity, integrated at half resolution            |
| "official"   | `VoxelMorph2` | 327,331    | the same; the default of the authors' repository     |

Model card:

- repositories: junyuchen245/TransMorph_Transformer_for_Medical_Image_Registration and
  voxelmorph/voxelmorph;
- licence: MIT and Apache-2.0;
- compared by: AD-RegNet (Table III) and LGANet++ (tables 2 to 6);
- parameters: 274,387 (network 1) and 301,411 (network 2) in the preset "transmorph", more in
  "official", see the table;
- sizes: sides that are multiples of 16;
- deviations: none in the result. The official network 1 follows the widths that the article
  gives, from memory; its repository has no preset for it.

    model = VoxelMorph2()
    registration = model(moving, fixed)   # (B, 1, D, H, W) twice, sides multiples of 16
"""

from collections.abc import Sequence

import torch
from torch import nn

from regnet_lib.models.official_weights import KeyMap
from regnet_lib.models.sizes import require_valid_images
from regnet_lib.nn.heads import DisplacementHead
from regnet_lib.nn.unet import UNet
from regnet_lib.spatial import integrate, resize
from regnet_lib.spatial.grid import next_multiple
from regnet_lib.types import Image, Registration

PRESETS = ("transmorph", "official")


class VoxelMorph(nn.Module):
    """What both networks share (Balakrishnan et al., 2019).

    With the preset "official", `extras["velocity"]` is the velocity at half resolution, whose
    smoothness the authors' training asks for.

    Args:
        encoder, decoder, full_resolution: channels, see `UNet`.
        preset: "transmorph" or "official".
        integration_steps: squarings of the official velocity; 0 takes it as a displacement.
    """

    official_keys = KeyMap(
        renames=(
            (r"^unet_model\.downarm\.(\d)\.main", r"unet.down.\1.0"),
            (r"^unet_model\.uparm\.(\d)\.main", r"unet.up.\1.0"),
            (r"^unet_model\.extras\.(\d)\.main", r"unet.full.\1.0"),
            (r"^unet_model\.encoder\.(\d)\.0\.main", r"unet.down.\1.0"),
            (r"^unet_model\.decoder\.(\d)\.0\.main", r"unet.up.\1.0"),
            (r"^unet_model\.remaining\.(\d)\.main", r"unet.full.\1.0"),
            (r"^flow\.", "head."),
        ),
    )

    def __init__(
        self,
        encoder: tuple[int, ...],
        decoder: tuple[int, ...],
        full_resolution: tuple[int, ...],
        preset: str,
        integration_steps: int,
    ) -> None:
        super().__init__()
        if preset not in PRESETS:
            raise ValueError(
                f"{type(self).__name__}: expected preset to be one of {PRESETS}, got {preset!r}."
            )
        self.preset = preset
        self.integration_steps = integration_steps
        self.multiple = 2 ** len(encoder)
        self.unet = UNet(2, encoder, decoder, full_resolution, pooled=preset == "official")
        self.head = DisplacementHead(full_resolution[-1], std=1e-5)

    def valid_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The nearest shape at least as large whose sides are multiples of 16."""
        return next_multiple(shape, self.multiple)

    def forward(self, moving: Image, fixed: Image) -> Registration:
        rule = f"sides that are multiples of {self.multiple}"
        require_valid_images(type(self).__name__, moving, fixed, self.valid_shape, rule)
        field = self.head(self.unet(torch.cat([moving, fixed], dim=1)))
        if self.preset == "transmorph":
            return Registration(field)
        shape = moving.shape[2:]
        velocity = resize(field, [side // 2 for side in shape])
        displacement = integrate(velocity, self.integration_steps, padding="zeros")
        return Registration(resize(displacement, shape), (), {"velocity": velocity})


class VoxelMorph1(VoxelMorph):
    """VoxelMorph-1 (Balakrishnan et al., 2019), the lighter one; see `VoxelMorph`.

    Args:
        preset: "transmorph" (274,387 parameters) or "official" (276,523).
        encoder, decoder, full_resolution: other channels than the preset's.
    """

    def __init__(
        self,
        preset: str = "transmorph",
        encoder: tuple[int, ...] | None = None,
        decoder: tuple[int, ...] = (32, 32, 32, 32),
        full_resolution: tuple[int, ...] | None = None,
        integration_steps: int = 7,
    ) -> None:
        official = preset == "official"
        super().__init__(
            encoder or ((16, 32, 32, 32) if official else (8, 32, 32, 32)),
            decoder,
            full_resolution or ((8, 8) if official else (32, 8, 8)),
            preset,
            integration_steps,
        )


class VoxelMorph2(VoxelMorph):
    """VoxelMorph-2 (Balakrishnan et al., 2019); see `VoxelMorph`.

    Args:
        preset: "transmorph" (301,411 parameters) or "official" (327,331).
        encoder, decoder, full_resolution: other channels than the published ones.
    """

    def __init__(
        self,
        preset: str = "transmorph",
        encoder: tuple[int, ...] = (16, 32, 32, 32),
        decoder: tuple[int, ...] = (32, 32, 32, 32),
        full_resolution: tuple[int, ...] = (32, 16, 16),
        integration_steps: int = 7,
    ) -> None:
        super().__init__(encoder, decoder, full_resolution, preset, integration_steps)

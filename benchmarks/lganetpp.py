"""LGANet++, one pair and one training step, against its plain transcription with the same
weights."""

from functools import partial

import torch
from torch import Tensor

from benchmarks.measure import Comparison
from benchmarks.plain_lganetpp import PlainLGANetPP
from regnet_lib.data.phantoms import phantom_pair
from regnet_lib.losses import Objective
from regnet_lib.models.lganetpp import LGANetPP

SHAPES = ((48, 64, 48), (72, 88, 72))


def comparisons() -> list[Comparison]:
    torch.manual_seed(0)
    model = LGANetPP()
    # At its initial 0 the position attention would not take part.
    model.decoders["4"].position_attention.gamma.data.fill_(0.8)
    plain = PlainLGANetPP(model)
    result = []
    for shape in SHAPES:
        case = phantom_pair(shape, seed=0)
        name = "x".join(map(str, shape))
        images = (case.moving, case.fixed)
        result += [
            Comparison(
                case=f"LGANet++ {name}, forward without gradient",
                ours=partial(_forward, model, _ours, *images),
                other=partial(_forward, model, plain, *images),
                other_name="the plain transcription",
                check=_same_displacement,
                target=1.0,
                rounds=5,
            ),
            Comparison(
                case=f"LGANet++ {name}, training step (forward, loss, backward)",
                ours=TrainingStep(model, _ours, *images),
                other=TrainingStep(model, plain, *images),
                other_name="the plain transcription",
                check=_same_gradients,
                target=1.1,
                rounds=3,
            ),
        ]
    return result


class TrainingStep:
    """Loss and gradients; the first call leaves dropout out, so that results can be compared."""

    def __init__(self, model: LGANetPP, run, moving: Tensor, fixed: Tensor) -> None:
        self.model, self.run, self.images = model, run, (moving, fixed)
        self.checked = False

    def __call__(self) -> tuple[float, Tensor] | None:
        self.model.train(self.checked)
        self.model.zero_grad()
        if self.run is _ours:
            displacement = _ours(*self.images, model=self.model)
        else:
            displacement = self.run(*self.images)
        loss, _ = Objective()(displacement, *self.images)
        loss.backward()
        if self.checked:
            return None
        self.checked = True
        gradients = [weights.grad.flatten() for weights in self.model.parameters()]
        return loss.item(), torch.cat(gradients)


def _ours(moving: Tensor, fixed: Tensor, model: LGANetPP) -> Tensor:
    return model(moving, fixed).displacement


@torch.no_grad()
def _forward(model: LGANetPP, run, moving: Tensor, fixed: Tensor) -> Tensor:
    model.eval()
    return run(moving, fixed, model=model) if run is _ours else run(moving, fixed)


def _same_displacement(ours: Tensor, other: Tensor) -> str:
    worst = (ours - other).abs().max().item()
    assert worst < 5e-3, worst
    return f"largest difference {worst:.1e} voxel of {other.abs().max().item():.1f}"


def _same_gradients(ours: tuple[float, Tensor], other: tuple[float, Tensor]) -> str:
    loss = abs(ours[0] - other[0])
    gradient = ((ours[1] - other[1]).norm() / other[1].norm()).item()
    assert loss < 1e-5 and gradient < 1e-2, (loss, gradient)
    return f"loss differs by {loss:.1e}, gradient by {gradient:.1e} (relative)"

"""The lung methods of AD-RegNet Table I, as families."""

import pytest
import torch

from regnet_lib.losses import Objective
from regnet_lib.models.dlir import DLIR, cubic_b_spline, spline_displacement
from regnet_lib.models.eppenhof import Eppenhof, random_displacement
from regnet_lib.models.fang_fcn import FangFCN
from regnet_lib.models.mjcnn import MJCNN
from regnet_lib.models.mlvirnet import MLVIRNet
from regnet_lib.nn.scales import over_scales
from regnet_lib.spatial import compose, folding_fraction, resize, warp

MODELS = {
    DLIR: (344_073, (32, 48, 32)),
    Eppenhof: (1_359_587, (16, 24, 16)),
    FangFCN: (1_486_380, (16, 24, 16)),
    MJCNN: (345_225, (8, 12, 16)),
    MLVIRNet: (655_209, (32, 64, 32)),
}
every_model = pytest.mark.parametrize("model", MODELS)


@every_model
def test_parameters_shape_and_start(model):
    count, shape = MODELS[model]
    torch.manual_seed(0)
    network = model()
    assert sum(weights.numel() for weights in network.parameters()) == count
    assert f"{count:,}" in __import__(model.__module__, fromlist=["x"]).__doc__
    displacement = network(*torch.rand(2, 1, 1, *shape)).displacement
    assert displacement.shape == (1, 3, *shape)
    assert displacement.abs().max() < 0.02


@every_model
def test_every_parameter_learns(model):
    """After a first step, because DLIR's last layers start at zero and hold the others back."""
    _, shape = MODELS[model]
    torch.manual_seed(0)
    network = model()
    moving, fixed = torch.rand(2, 1, 1, *shape)
    for _ in range(2):
        network.zero_grad()
        target = torch.randn(1, 3, *shape)
        (network(moving, fixed).displacement - target).square().mean().backward()
        with torch.no_grad():
            for weights in network.parameters():
                weights -= 1e-3 * weights.grad
    assert all(weights.grad.abs().sum() > 0 for weights in network.parameters())


@every_model
def test_batch_items_do_not_see_each_other(model):
    _, shape = MODELS[model]
    torch.manual_seed(0)
    network = model().eval()
    for name, weights in network.named_parameters():
        if "head" in name:
            torch.nn.init.normal_(weights, std=0.01)
    moving, fixed = torch.rand(2, 2, 1, *shape)
    together = network(moving, fixed).displacement
    alone = [network(moving[i : i + 1], fixed[i : i + 1]).displacement for i in (0, 1)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-3, atol=1e-5)


@every_model
def test_sizes(model):
    network = model()
    shape = network.valid_shape((33, 20, 7))
    assert network.valid_shape(shape) == shape and min(shape) >= 8
    image = torch.zeros(1, 1, 33, 20, 7)
    with pytest.raises(ValueError, match=str(shape).replace("(", r"\(").replace(")", r"\)")):
        network(image, image)


@every_model
def test_autocast_returns_float32(model):
    _, shape = MODELS[model]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert model()(*torch.rand(2, 1, 1, *shape)).displacement.dtype == torch.float32


class TestDLIR:
    def test_the_spline_against_scipy(self):
        from scipy.interpolate import BSpline

        oracle = BSpline.basis_element([-2.0, -1.0, 0.0, 1.0, 2.0], extrapolate=False)
        places = (torch.arange(32, dtype=torch.float64) + 0.5) / 8 - 2
        torch.testing.assert_close(
            cubic_b_spline(8).double(), torch.from_numpy(oracle(places.numpy())), rtol=0, atol=1e-6
        )

    @pytest.mark.parametrize("spacing", [2, 4, 8])
    def test_splines_reproduce_linear_motion_inside(self, spacing):
        """Cubic B-splines reproduce straight lines, so also where the control points lie."""
        cells = (7, 6, 7)
        centres = torch.stack(
            torch.meshgrid(
                *(torch.arange(n) * spacing + (spacing - 1) / 2 for n in cells), indexing="ij"
            )
        )
        matrix = torch.tensor([[0.1, 0.02, 0], [0, -0.05, 0.03], [0.01, 0, 0.2]])
        points = torch.einsum("ij,jdhw->idhw", matrix, centres)[None]
        shape = tuple(n * spacing for n in cells)
        voxels = torch.stack(
            torch.meshgrid(*(torch.arange(n).float() for n in shape), indexing="ij")
        )
        expected = torch.einsum("ij,jdhw->idhw", matrix, voxels)[None]
        found = spline_displacement(points, spacing)
        assert found.shape == (1, 3, *shape)
        inner = (..., *[slice(2 * spacing, -2 * spacing)] * 3)
        torch.testing.assert_close(found[inner], expected[inner], rtol=1e-4, atol=1e-4)

    def test_a_constant_stays_one_up_to_the_border(self):
        found = spline_displacement(torch.full((2, 3, 2, 3, 2), 1.5), 4)
        torch.testing.assert_close(found, torch.full((2, 3, 8, 12, 8), 1.5))

    def test_stages_are_composed(self):
        torch.manual_seed(0)
        model = DLIR(spacings=(8, 4)).eval()
        for stage in model.stages:
            stage.head.weight.data.normal_(std=0.5)
        moving, fixed = torch.rand(2, 1, 1, 16, 16, 24)
        first, second = model(moving, fixed).pyramid
        alone = model.stages[1](warp(moving, first), fixed)
        torch.testing.assert_close(second, compose(first, alone))
        assert torch.equal(DLIR(spacings=(8, 4), stages=1)(moving, fixed).pyramid[-1], first * 0)

    def test_spacings_are_checked(self):
        with pytest.raises(ValueError, match="2, 4, 8, 16 or 32, got"):
            DLIR(spacings=(16, 5))


def test_every_scale_adds_what_the_coarser_ones_left():
    """Networks that answer with a fixed motion: fields add up in voxels of the finest scale."""

    class Fixed(torch.nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = value

        def forward(self, images):
            return torch.full((len(images), 3, *images.shape[2:]), self.value)

    image = torch.rand(1, 1, 8, 8, 8)
    pyramid = over_scales([Fixed(0.25), Fixed(0.5), Fixed(1.0)], (4, 2, 1), image, image)
    assert [field.shape[2] for field in pyramid] == [2, 4, 8]
    torch.testing.assert_close(pyramid[-1], torch.full((1, 3, 8, 8, 8), 0.25 * 4 + 0.5 * 2 + 1.0))


def test_fewer_scales_still_give_a_full_field():
    images = torch.rand(2, 1, 1, 8, 8, 8)
    for model in (MJCNN(scales=1), MLVIRNet(trained_levels=2)):
        shape = model.valid_shape((8, 8, 8))
        registration = model(*torch.rand(2, 1, 1, *shape))
        assert registration.displacement.shape[2:] == shape
        torch.testing.assert_close(
            registration.displacement, resize(registration.pyramid[-1], shape)
        )
    with pytest.raises(ValueError, match="1, 2 or 3"):
        MJCNN(scales=4)
    with pytest.raises(ValueError, match="1 to 3"):
        MLVIRNet(trained_levels=0)
    assert MJCNN(scales=1)(*images).pyramid[0].shape[2:] == (2, 2, 2)


def test_finer_levels_start_from_the_weights_of_the_coarser():
    model = MLVIRNet(levels=2)
    model.start_finer_levels(0)
    first, second = (dict(network.named_parameters()) for network in model.networks)
    assert all(torch.equal(first[name], second[name]) for name in first)


class TestEppenhof:
    def test_random_fields_are_smooth_bounded_and_do_not_fold(self):
        torch.manual_seed(0)
        fields = random_displacement(torch.zeros(3, 1, 32, 36, 30))
        assert fields.shape == (3, 3, 32, 36, 30)
        assert 1 < fields.abs().max() <= 8
        assert not folding_fraction(fields).any()
        assert not torch.equal(fields[0], fields[1])

    def test_the_loss_is_the_squared_error_of_the_made_field(self):
        torch.manual_seed(0)
        model = Eppenhof()
        torch.nn.init.zeros_(model.head.weight)
        moving, fixed = torch.rand(2, 1, 1, 16, 16, 16)
        torch.manual_seed(5)
        loss, parts = model.training_loss(Objective(), moving, fixed)
        torch.manual_seed(5)
        # A network at rest misses the complete field.
        torch.testing.assert_close(loss, random_displacement(moving).square().mean())
        assert parts["loss"] == loss

    def test_it_learns(self):
        torch.manual_seed(0)
        model = Eppenhof(encoder=(8, 16), decoder=(16, 8), full_resolution=(8,))
        image = torch.nn.functional.avg_pool3d(torch.rand(1, 1, 20, 20, 20), 5, 1)
        image = (image - image.min()) / (image.max() - image.min())
        optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
        losses = []
        for step in range(60):
            torch.manual_seed(step % 2)  # two fields, again and again
            optimiser.zero_grad()
            loss, _ = model.training_loss(Objective(), image, image)
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        assert sum(losses[-15:]) < 0.8 * sum(losses[:15])

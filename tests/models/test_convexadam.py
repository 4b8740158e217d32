"""ConvexAdam: the search against its definition, and pairs whose true displacement is known."""

import pytest
import torch
import torch.nn.functional as F
from behaviour import error_voxels

from regnet_lib.data import phantom_pair
from regnet_lib.models import create_model
from regnet_lib.models.convexadam import Settings, coupled_convex, matching_cost
from regnet_lib.spatial import folding_fraction

SETTINGS = Settings(spacing=2, reach=2, smoothness=1.0, iterations=40)
SHAPE = (32, 34, 36)


@pytest.fixture(scope="module")
def case():
    return phantom_pair(SHAPE, seed=6, max_displacement_voxels=4.0)


@pytest.fixture(scope="module")
def found(case):
    return create_model("convexadam", settings=SETTINGS)(case.moving, case.fixed).displacement


class TestModel:
    def test_returns_one_detached_field_in_float32(self, found):
        assert found.shape == (1, 3, *SHAPE) and found.dtype == torch.float32
        assert not found.requires_grad
        assert sum(p.numel() for p in create_model("convexadam").parameters()) == 0

    def test_finds_much_of_a_known_displacement(self, found, case):
        assert error_voxels(found, case) < 0.6 * error_voxels(torch.zeros_like(found), case)
        assert float(folding_fraction(found, "central")) < 0.01

    def test_the_descent_improves_on_the_search(self, found, case):
        settings = Settings(spacing=2, reach=2, iterations=0)
        searched = create_model("convexadam", settings=settings)(case.moving, case.fixed)
        zero = torch.zeros_like(found)
        assert error_voxels(searched.displacement, case) < 0.7 * error_voxels(zero, case)
        assert error_voxels(found, case) < 0.95 * error_voxels(searched.displacement, case)

    def test_inverted_grey_values_change_little(self, found, case):
        model = create_model("convexadam", settings=SETTINGS)
        inverted = model(1 - case.moving, case.fixed).displacement
        assert (inverted - found).norm(dim=1).mean() < 0.05

    def test_a_batch_equals_single_cases_without_gradients(self, found, case):
        other = phantom_pair(SHAPE, seed=7)
        pairs = [torch.cat([getattr(c, n) for c in (other, case)]) for n in ("moving", "fixed")]
        with torch.no_grad():
            together = create_model("convexadam", settings=SETTINGS)(*pairs).displacement
        torch.testing.assert_close(together[1:], found, rtol=0, atol=1e-4)

    def test_autocast_leaves_it_in_float32(self, found, case):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model = create_model("convexadam", settings=SETTINGS)
            displacement = model(case.moving, case.fixed).displacement
        torch.testing.assert_close(displacement, found, rtol=0, atol=1e-4)

    def test_flat_images_give_a_finite_field(self):
        flat = torch.full((1, 1, 16, 16, 16), 0.5)
        displacement = create_model("convexadam", preset="brain")(flat, flat).displacement
        assert displacement.isfinite().all()

    @pytest.mark.parametrize("preset", ["default", "brain", "lung"])
    def test_presets_run_at_their_smallest_size(self, preset):
        model = create_model("convexadam", preset=preset)
        shape = model.valid_shape((1, 1, 1))
        assert shape == (3 * model.settings.spacing,) * 3
        image = torch.rand(1, 1, *shape)
        assert model(image, image).displacement.shape == (1, 3, *shape)

    @pytest.mark.usefixtures("unchecked")
    def test_small_images_and_unknown_presets_are_refused(self):
        image = torch.rand(1, 1, 11, 40, 12)
        with pytest.raises(ValueError, match=r"three cells along each axis.*\(18, 40, 18\)"):
            create_model("convexadam")(image, image)
        with pytest.raises(ValueError, match="'brain', 'default', 'lung'"):
            create_model("convexadam", preset="abdomen")


class TestMatchingCost:
    def test_equals_the_definition(self):
        random = torch.Generator().manual_seed(0)
        moving, fixed = (torch.rand(1, 12, 5, 6, 7, generator=random) for _ in range(2))
        cost = matching_cost(moving, fixed, reach=2)
        assert cost.shape == (5, 5, 5, 5, 6, 7)
        padded = F.pad(moving, [2] * 6)
        for start in ((2, 2, 2), (0, 3, 4)):
            window = padded[..., start[0] :, start[1] :, start[2] :][..., :5, :6, :7]
            squares = (window - fixed).square().sum(1, keepdim=True)
            box = torch.full((1, 1, 3, 3, 3), 1 / 27)
            smooth = F.conv3d(F.conv3d(squares, box, padding=1), box, padding=1)
            torch.testing.assert_close(cost[start], smooth[0, 0])

    def test_is_least_at_the_true_shift(self):
        fixed = torch.rand(1, 12, 12, 12, 12, generator=torch.Generator().manual_seed(0))
        cost = matching_cost(fixed.roll((1, -2, 0), (2, 3, 4)), fixed, reach=2)
        best = cost[..., 6, 6, 6].flatten().argmin()
        assert torch.unravel_index(best, (5, 5, 5)) == (3, 0, 2)


class TestCoupledConvex:
    def test_one_clear_minimum_everywhere_is_the_answer_inside(self):
        cost = torch.ones(5, 5, 5, 7, 7, 7)
        cost[3, 0, 2] = 0
        field = coupled_convex(cost)
        assert field.shape == (1, 3, 7, 7, 7)
        # box means with zeros outside pull towards 0 near the faces
        expected = torch.tensor([1.0, -2.0, 0.0]).view(3, 1, 1, 1).expand(3, 3, 3, 3)
        torch.testing.assert_close(field[0, :, 2:-2, 2:-2, 2:-2], expected)

    def test_a_cell_without_information_follows_its_neighbours(self):
        cost = torch.ones(5, 5, 5, 7, 7, 7)
        cost[3, 3, 3] = 0
        cost[..., 3, 3, 3] = 0.5
        cost[0, 0, 0, 3, 3, 3] = 0.49  # slightly better, and far from all others
        field = coupled_convex(cost)
        assert (field[0, :, 3, 3, 3] > 0.8).all()

"""deeds: each step against its definition, and pairs whose true displacement is known."""

from itertools import product

import numpy as np
import pytest
import torch
from behaviour import error_voxels

from regnet_lib.data import phantom_pair
from regnet_lib.losses import mind_ssc_descriptor
from regnet_lib.models import create_model
from regnet_lib.models.deeds import Level, data_cost, quantised_mind
from regnet_lib.nn.spanning_tree import Tree, best_displacements, spanning_tree
from regnet_lib.spatial import compose, folding_fraction

LEVELS = (Level(4, 4, 2), Level(3, 3, 1), Level(2, 2, 1))
SHAPE = (32, 34, 36)


@pytest.fixture(scope="module")
def case():
    return phantom_pair(SHAPE, seed=6, max_displacement_voxels=4.0)


@pytest.fixture(scope="module")
def found(case):
    return create_model("deeds", levels=LEVELS)(case.moving, case.fixed).displacement


class TestModel:
    def test_returns_one_field_in_float32(self, found, case):
        assert found.shape == (1, 3, *SHAPE) and found.dtype == torch.float32
        assert sum(p.numel() for p in create_model("deeds").parameters()) == 0

    def test_finds_much_of_a_known_displacement(self, found, case):
        assert error_voxels(found, case) < 0.5 * error_voxels(torch.zeros_like(found), case)
        assert float(folding_fraction(found, "central")) < 0.01

    def test_finds_a_shift_beyond_the_reach_of_gradients(self):
        """Nine voxels: more than a cell, and more than the texture is wide."""
        image = phantom_pair((40, 32, 32), seed=3, noise=0.0, max_displacement_voxels=0.0).moving
        moving = image.roll(9, 2)
        levels = (Level(6, 3, 4), Level(4, 3, 2), Level(2, 2, 1))
        displacement = create_model("deeds", levels=levels)(moving, image).displacement
        head = image[0, 0] > 0.3
        torch.testing.assert_close(
            displacement[0, :, head].mean(1), torch.tensor([9.0, 0.0, 0.0]), rtol=0, atol=0.3
        )

    def test_inverted_grey_values_change_little(self, found, case):
        inverted = create_model("deeds", levels=LEVELS)(1 - case.moving, case.fixed).displacement
        assert (inverted - found).norm(dim=1).mean() < 0.1

    def test_equal_images_need_no_displacement(self, case):
        displacement = create_model("deeds", levels=LEVELS)(case.fixed, case.fixed).displacement
        assert torch.equal(displacement, torch.zeros(1, 3, *SHAPE))

    def test_the_other_direction_is_about_the_inverse(self, found, case):
        back = create_model("deeds", levels=LEVELS)(case.fixed, case.moving).displacement
        inside = case.fixed_labels[:, 0] > 0
        residual = compose(back, found).norm(dim=1)[inside].mean()
        assert residual < 0.2 * found.norm(dim=1)[inside].mean()

    def test_a_batch_equals_single_cases_under_autocast(self, found, case):
        other = phantom_pair(SHAPE, seed=7)
        pairs = [torch.cat([getattr(c, n) for c in (other, case)]) for n in ("moving", "fixed")]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            together = create_model("deeds", levels=LEVELS)(*pairs).displacement
        assert torch.equal(together[1:], found)

    def test_flat_images_give_a_finite_field(self):
        flat = torch.full((1, 1, 16, 16, 16), 0.5)
        displacement = create_model("deeds", levels=LEVELS)(flat, flat).displacement
        assert torch.equal(displacement, torch.zeros(1, 3, 16, 16, 16))

    @pytest.mark.usefixtures("unchecked")
    def test_small_images_and_unknown_presets_are_refused(self):
        model = create_model("deeds")
        assert model.valid_shape((11, 40, 12)) == (12, 40, 12)
        image = torch.rand(1, 1, 11, 40, 12)
        with pytest.raises(ValueError, match=r"two of the largest cells.*\(12, 40, 12\)"):
            model(image, image)
        with pytest.raises(ValueError, match="'default', 'ixi'"):
            create_model("deeds", preset="abdomen")


class TestDataCost:
    def test_bits_count_the_differences_of_levels(self):
        """The 12 channels of two images, rounded to six levels each."""
        level = Level(4, 1, 3)
        images = [
            torch.rand(1, 1, 9, 8, 10, generator=torch.Generator().manual_seed(s)) for s in (0, 1)
        ]
        codes = [quantised_mind(image, level) for image in images]
        levels = []
        for image in images:
            values = mind_ssc_descriptor(image, 2, 2)[0].numpy()
            thresholds = (np.arange(5) + 1.5) / 6
            levels.append((values[..., None] > thresholds).sum(-1))
        expected = np.abs(levels[0] - levels[1]).sum(0)
        np.testing.assert_array_equal(np.bitwise_count(codes[0] ^ codes[1]), expected)
        assert expected.max() > 10

    @pytest.mark.parametrize("level", [Level(3, 1, 2), Level(6, 1, 2), Level(5, 2, 1)])
    def test_equals_a_loop_over_the_voxels(self, level):
        random = np.random.default_rng(0)
        shape = (13, 12, 14)  # not all multiples of the cell
        reference, warped = random.integers(0, 2**60, (2, *shape), dtype=np.uint64)
        cost = data_cost(reference, warped, level)
        cells = [side // level.spacing for side in shape]
        offsets = list(product(range(-level.reach, level.reach + 1), repeat=3))
        assert cost.shape == (len(offsets), np.prod(cells))
        every = 2 if level.spacing > 4 else 1
        for cell, index in ((0, 0), (3, 5), (cost.shape[1] - 1, len(offsets) - 1)):
            corner = np.array(np.unravel_index(cell, cells)) * level.spacing
            bits = []
            for inside in product(range(level.spacing), repeat=3):
                if inside[0] % every or inside[1] % every:
                    continue
                here = corner + inside
                there = (here + level.step * np.array(offsets[index])).clip(0, np.array(shape) - 1)
                bits.append(np.bitwise_count(reference[tuple(here)] ^ warped[tuple(there)]))
            assert cost[index, cell].item() == pytest.approx(np.mean(bits), rel=1e-5)


class TestSpanningTree:
    def test_parents_come_first_and_depths_are_intervals(self, case):
        tree = spanning_tree(case.fixed, spacing=4)
        cells = 8 * 8 * 9
        assert sorted(tree.order.tolist()) == list(range(cells))
        depth = torch.zeros(cells, dtype=torch.long)
        for position in range(1, cells):
            assert tree.parent[position] < position
            depth[position] = depth[tree.parent[position]] + 1
        expected = [0, *(d + 1 for d, (a, b) in enumerate(tree.depths) for _ in range(b - a))]
        assert depth.tolist() == expected
        assert ((tree.weight > 0) & (tree.weight <= 1)).all()

    def test_edges_join_neighbours_and_the_root_is_central(self, case):
        tree = spanning_tree(case.fixed, spacing=4)
        place = torch.stack(torch.unravel_index(tree.order, (8, 8, 9)), dim=1)
        assert place[0].tolist() == [4, 4, 4]
        steps = (place - place[tree.parent]).abs().sum(1)
        assert steps[0] == 0 and (steps[1:] == 1).all()

    def test_it_is_the_lightest_tree(self):
        """Kruskal's algorithm by hand; the weights of the tree hold the costs of its edges."""
        image = torch.rand(1, 1, 9, 6, 12, generator=torch.Generator().manual_seed(0))
        blocks = image[0, 0].view(3, 3, 2, 3, 4, 3).permute(0, 2, 4, 1, 3, 5).flatten(3)
        index = {place: n for n, place in enumerate(np.ndindex(3, 2, 4))}
        edges = []
        for place in index:
            for axis in range(3):
                other = tuple(p + (a == axis) for a, p in enumerate(place))
                if other in index:
                    cost = (blocks[place] - blocks[other]).abs().mean().item()
                    edges.append((cost, index[place], index[other]))
        group, total = list(range(len(index))), 0.0
        for cost, one, other in sorted(edges):
            if group[one] != group[other]:
                total += cost
                group = [group[one] if g == group[other] else g for g in group]
        tree = spanning_tree(image, spacing=3)
        costs = -tree.weight[1:].log() * 2 * image.std()
        assert costs.sum().item() == pytest.approx(total, rel=1e-5)

    def test_of_a_flat_image(self):
        tree = spanning_tree(torch.zeros(1, 1, 8, 8, 8), spacing=2)
        assert len(tree.order) == 64 and torch.equal(tree.weight, torch.ones(64))


class TestBestDisplacements:
    def test_equals_trying_everything(self):
        """Four cells with 27 displacements each: 531,441 combinations."""
        random = torch.Generator().manual_seed(0)
        # 2 is the root with the children 0 and 3; 1 hangs below 3
        tree = Tree(
            order=torch.tensor([2, 0, 3, 1]),
            parent=torch.tensor([0, 0, 0, 2]),
            weight=torch.tensor([1.0, 0.5, 0.8, 0.3]),
            depths=((1, 3), (3, 4)),
        )
        cost = 8 * torch.rand(27, 4, generator=random)
        start = torch.rand(4, 3, generator=random) - 0.5
        moves = torch.cartesian_prod(*[torch.arange(-1.0, 2.0)] * 3)

        def penalty(parent, child):
            """Over the 27 displacements of the parent and the 27 of the child."""
            return torch.cdist(moves + start[parent], moves + start[child]).square()

        energy = (
            cost[:, 2].view(27, 1, 1, 1)
            + (0.5 * cost[:, 0] + penalty(2, 0)).view(27, 27, 1, 1)
            + (0.8 * cost[:, 3] + penalty(2, 3)).view(27, 1, 27, 1)
            + 0.8 * (0.3 * cost[:, 1] + penalty(3, 1)).view(1, 1, 27, 27)
        )
        best = torch.unravel_index(energy.argmin(), energy.shape)
        expected = torch.stack([moves[i] for i in best])[[1, 3, 0, 2]]  # of cells 0, 1, 2, 3
        assert torch.equal(best_displacements(cost, start, tree), expected)

    def test_costs_alone_decide_without_neighbours_that_disagree(self):
        tree = spanning_tree(torch.rand(1, 1, 6, 6, 6), spacing=2)
        cost = torch.ones(125, 27)
        cost[7] = 0  # index 7 of 5^3 is (0, 1, 2), the displacement (-2, -1, 0)
        chosen = best_displacements(cost, torch.zeros(27, 3), tree)
        assert torch.equal(chosen, torch.tensor([[-2.0, -1.0, 0.0]]).expand(27, 3))


def test_consistent_fields_are_inverses_of_each_other(case):
    from regnet_lib.nn.control_points import make_consistent

    forward, backward = case.displacement, -0.5 * case.displacement
    before = compose(backward, forward).norm(dim=1).mean()
    forward, backward = make_consistent(forward, backward, 10)
    assert compose(backward, forward).norm(dim=1).mean() < 0.05 * before


def test_control_points_are_the_centres_of_their_cells():
    """A linear field, averaged over cells and interpolated, comes back between the centres."""
    from regnet_lib.nn.control_points import interpolate
    from regnet_lib.spatial import identity_grid

    linear = identity_grid((12, 9, 14))
    cells = torch.nn.functional.avg_pool3d(linear, 3)
    back = interpolate(cells, (12, 9, 14), 3)
    torch.testing.assert_close(back[..., 1:11, 1:8, 1:11], linear[..., 1:11, 1:8, 1:11])
    assert torch.equal(back[..., 13], back[..., 10])  # beyond the last centre

"""What any method has to do, whatever it is; called by the test file of each method."""

import torch


def check_batch_items_do_not_see_each_other(model, shape, share=1e-4):
    """Within a share of the largest component: other batch sizes take other kernels."""
    moving, fixed = torch.rand(2, 2, 1, *shape)
    with torch.no_grad():
        together = model(moving, fixed).displacement
        alone = torch.cat([model(moving[i : i + 1], fixed[i : i + 1]).displacement for i in (0, 1)])
    assert (together - alone).abs().max() < share * alone.abs().max()


def check_autocast_returns_float32_close_to_it(model, shape, share=0.1):
    """Within a share of the largest component."""
    images = torch.rand(2, 1, 1, *shape)
    with torch.no_grad():
        expected = model(*images).displacement
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(*images).displacement
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < share * expected.abs().max()


def error_voxels(displacement, case):
    """Mean length of the difference to the true displacement inside the head."""
    inside = case.fixed_labels[:, 0] > 0
    return (displacement - case.displacement).norm(dim=1)[inside].mean().item()

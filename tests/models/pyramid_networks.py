"""What every pyramid network of the LGANet++ tables has to pass; used by one test file per network.

golden = read_golden(goldens, "RDP_c8")
check_golden(RDP(channels=8), golden)
"""

import importlib.util
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from regnet_lib.models.official_weights import load_official_state_dict
from regnet_lib.spatial import warp


class Golden(NamedTuple):
    """A run of an official network."""

    state: dict[str, torch.Tensor]
    inputs: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]
    meta: dict


def read_golden(goldens: Path, name: str) -> Golden:
    folder = goldens / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not among the goldens")
    spec = importlib.util.spec_from_file_location("gen_weights", goldens / "gen_weights.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    meta = json.loads((folder / "meta.json").read_text())
    weights = recipe.weights(meta["tag"], recipe.read_keys(folder / "keys.tsv"))
    state = {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}
    arrays = []
    for part in ("inputs", "outputs"):
        with np.load(folder / f"{part}.npz") as stored:
            arrays.append({name: torch.from_numpy(stored[name]) for name in stored})
    return Golden(state, *arrays, meta)


def check_golden(model: torch.nn.Module, golden: Golden, zoomed: bool = False) -> None:
    """Every official key, the field, the warped image, and the norm of every gradient."""
    derived = {name: torch.zeros(1) for name in golden.meta["omitted_buffers"]}
    report = load_official_state_dict(model.eval(), golden.state | derived)
    assert set(report.loaded) | set(report.dead) == golden.state.keys()
    assert set(report.derived) == derived.keys()
    ours = model.state_dict()
    for name in report.loaded:
        assert torch.equal(ours[model.official_keys.rename(name)], golden.state[name]), name
    dead = sum(golden.state[name].numel() for name in report.dead)
    assert parameter_count(model) + dead == golden.meta["params"]

    moving, fixed = golden.inputs["moving"], golden.inputs["fixed"]
    displacement = model(moving, fixed).displacement
    warped = warp(moving, displacement, zoomed=zoomed)
    tolerance = golden.meta["suggested_atol"]
    found = {"flow": displacement, "warped": warped}
    for name in golden.outputs.keys() & found.keys():
        expected = golden.outputs[name]
        torch.testing.assert_close(found[name], expected, rtol=0, atol=tolerance[name])

    model.zero_grad()
    loss = displacement.square().mean()
    if "warped" in golden.meta["loss_definition"]:
        loss = loss + (warped * fixed).mean()
    torch.testing.assert_close(loss.item(), golden.meta["loss"], rtol=1e-5, atol=0)
    loss.backward()
    gradients = {name: weights.grad for name, weights in model.named_parameters()}
    largest = max(norm for norm in golden.meta["grad_l2_norms"].values() if norm)
    for name, norm in golden.meta["grad_l2_norms"].items():
        assert (norm is None) == (name in report.dead), name
        if norm is not None:
            gradient = gradients[model.official_keys.rename(name)].norm().item()
            assert gradient == pytest.approx(norm, rel=5e-3, abs=1e-5 * largest), name


def check_behaviour(model: torch.nn.Module, shape: tuple[int, int, int]) -> None:
    """Gradients everywhere, batch items by themselves, and autocast."""
    moving, fixed = smooth_images(shape)
    model.train()
    displacement = model(moving, fixed).displacement
    assert displacement.shape == (2, 3, *shape)
    weight = torch.randn(displacement.shape, generator=torch.Generator().manual_seed(2))
    (displacement * weight).sum().backward()
    without = [
        name
        for name, weights in model.named_parameters()
        if weights.grad is None or not weights.grad.any()
    ]
    assert not without, without
    assert all(weights.grad.isfinite().all() for weights in model.parameters())

    model.eval()
    with torch.no_grad():
        together = model(moving, fixed)
        alone = model(moving[1:], fixed[1:]).displacement
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = model(moving, fixed)
    size = together.displacement.abs().max()
    assert 0 < size < 100
    assert (together.displacement[0] - together.displacement[1]).abs().max() > 1e-3 * size
    torch.testing.assert_close(together.displacement[1:], alone, rtol=1e-4, atol=1e-4 * float(size))
    for field in mixed.pyramid:
        assert field.dtype == torch.float32 and field.isfinite().all()
    difference = (mixed.displacement - together.displacement).abs().mean()
    assert difference < 0.1 * together.displacement.abs().mean()
    assert together.pyramid[-1] is together.displacement


def check_sizes(model: torch.nn.Module, multiple: int, least: int) -> None:
    odd = torch.zeros(1, 1, least, least + 1, 2 * least)
    valid = (least, least + multiple, 2 * least)
    assert model.valid_shape(odd.shape[2:]) == valid
    assert model.valid_shape((1, 1, 1)) == (least, least, least)
    assert model.valid_shape(valid) == valid
    name = type(model).__name__
    with pytest.raises(ValueError, match=rf"{name}: .*multiples of {multiple}.*{valid[1]}"):
        model(odd, odd)
    with pytest.raises(TypeError, match=name):
        model(torch.zeros(1, 1, *valid).long(), torch.zeros(1, 1, *valid).long())


def sides(fields) -> list[tuple[int, ...]]:
    return [tuple(field.shape[2:]) for field in fields]


def parameter_count(model: torch.nn.Module) -> int:
    return sum(weights.numel() for weights in model.parameters())


def smooth_images(shape, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    coarse = [max(side // 4, 2) for side in shape]
    noise = torch.rand(2 * batch, 1, *coarse, generator=torch.Generator().manual_seed(3))
    return F.interpolate(noise, size=shape, mode="trilinear", align_corners=True).split(batch)

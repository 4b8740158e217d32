"""What the viewers send to a page; how a browser shows it is tested in tests/browser."""

import base64
import json
import re
import sys
import zlib
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from regnet_lib.data import phantom_pair
from regnet_lib.spatial import folding_fraction, jacobian_determinant, resize, warp, warp_labels
from regnet_lib.viewers import (
    live_attention,
    live_view,
    view_anatomy,
    view_attention,
    view_deformation,
    view_jacobian,
    view_pyramid,
    view_slices,
)
from regnet_lib.viewers.attention import effective_places
from regnet_lib.viewers.itk import install_bridge, view_volume
from regnet_lib.viewers.page import (
    geometry,
    grey_levels,
    pack,
    pack_field,
    pack_images,
    pack_labels,
    quantised,
)

SHAPE = (20, 24, 18)


@pytest.fixture(scope="module")
def case():
    return phantom_pair(SHAPE, seed=2, max_displacement_voxels=2.0)


@pytest.fixture(scope="module")
def weights():
    random = torch.rand(2, 3, 2, 4, 4, 3, generator=torch.Generator().manual_seed(0))
    return random / random.sum((3, 4, 5), keepdim=True)


@pytest.fixture(scope="module")
def viewers(case, weights):
    return {
        "slices": view_slices(case, case.displacement),
        "deformation": view_deformation(case, case.displacement),
        "jacobian": view_jacobian(case, case.displacement),
        "anatomy": view_anatomy(case, case.displacement),
        "pyramid": view_pyramid(case, [resize(case.displacement, (10, 12, 9)), case.displacement]),
        "attention": view_attention(case, weights),
    }


def unpacked(packed: dict) -> np.ndarray:
    """The inverse of `pack`, as core.js has it."""
    data = np.frombuffer(zlib.decompress(base64.b64decode(packed["bytes"])), np.uint8)
    return np.cumsum(data, dtype=np.uint8).reshape(packed["shape"])


class Addresses(HTMLParser):
    """Everything that a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href") and value]


def test_each_viewer_is_one_piece_of_html(viewers, tmp_path):
    for kind, viewer in viewers.items():
        assert viewer.kind == kind
        viewer.save(tmp_path / f"{kind}.html")
        page = Addresses()
        page.feed((tmp_path / f"{kind}.html").read_text())
        assert page.found and all(address.startswith("data:") for address in page.found)
        html = viewer._repr_html_()
        assert html.count("<script>") == html.count("</script>") == 1
        assert html.isascii(), "a notebook may be read in any encoding"


def test_same_content_gives_the_same_page(case, viewers):
    assert view_slices(case, case.displacement).html() == viewers["slices"].html()
    assert view_slices(case).key != viewers["slices"].key


def test_names_cannot_break_out_of_the_page(case):
    hostile = view_slices(replace(case, id='</script><img src=x onerror="alert(1)">'))
    html = hostile.html()
    assert html.count("</script>") == 1
    assert "<img src=x" not in html.partition("<script>")[0]


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (3, 5, 4, 2)])
def test_bytes_survive_packing(shape):
    volume = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    assert np.array_equal(unpacked(pack(volume)), volume)


def test_only_bytes_are_packed():
    with pytest.raises(TypeError, match="expected uint8, got float64"):
        pack(np.zeros((2, 2, 2)))


def test_quantised_keeps_the_order_and_clips():
    values = np.array([-5.0, 0.0, 0.5, 1.0, 5.0])
    assert quantised(values, 0.0, 1.0).tolist() == [0, 0, 128, 255, 255]
    assert quantised(values, 0.0, 0.0).dtype == np.uint8  # a constant image is no error


def test_images_share_one_scale(case):
    sent = pack_images(fixed=case.fixed, moving=case.moving)
    span = sent["high"] - sent["low"]
    for name, image in (("fixed", case.fixed), ("moving", case.moving)):
        back = sent["low"] + unpacked(sent["volumes"][name]) / 255 * span
        truth = np.clip(image[0, 0].numpy(), sent["low"], sent["high"])
        assert np.abs(back - truth).max() <= 1.51 * span / 255


def test_labels_arrive_exactly(case):
    labels = case.fixed_labels * 1000 + 7  # numbers that no byte holds
    sent = pack_labels(fixed=labels)
    assert np.array_equal(np.array(sent["ids"])[unpacked(sent["volumes"]["fixed"])], labels[0, 0])
    many = torch.arange(16 * 17).view(1, 1, 16, 17, 1)
    with pytest.raises(ValueError, match="at most 255 labels, got 271"):
        pack_labels(fixed=many)


def test_field_arrives_in_voxels_of_the_viewer(case):
    coarse = resize(case.displacement, (10, 12, 9))
    for sent in (pack_field(coarse, SHAPE), pack_field(case.displacement, SHAPE)):
        back = (unpacked(sent["packed"]).astype(float) - 128) / 127 * sent["longest"]
        assert back.shape == (3, 10, 12, 9)
        truth = 2 * coarse[0].numpy()
        assert np.abs(back - truth).max() <= 0.51 * sent["longest"] / 127


def test_warped_image_and_labels_are_those_of_the_library(case, viewers):
    content = viewers["slices"].content
    volumes = content["images"]["volumes"]
    low, high = content["images"]["low"], content["images"]["high"]
    warped = warp(case.moving, case.displacement)[0, 0].numpy()
    assert np.array_equal(unpacked(volumes["warped"]), grey_levels(warped, low, high))
    ids = np.array(content["labels"]["ids"])
    labels = warp_labels(case.moving_labels, case.displacement)[0, 0]
    assert np.array_equal(ids[unpacked(content["labels"]["volumes"]["warped"])], labels)
    assert set(view_slices(case).content["images"]["volumes"]) == {"fixed", "moving"}
    bare = replace(case, fixed_labels=None, moving_labels=None)
    assert view_slices(bare, case.displacement).content["labels"] is None


def test_jacobian_marks_every_fold_and_no_other_voxel(case):
    rough = torch.randn(1, 3, 10, 12, 9, generator=torch.Generator().manual_seed(0))
    displacement = case.displacement + 0.5 * resize(rough, SHAPE)
    content = view_jacobian(case, displacement).content
    determinant = jacobian_determinant(displacement, "central")[0, 0].numpy()
    assert np.array_equal(unpacked(content["determinant"]) == 0, determinant <= 0)
    assert content["folded"] == (determinant <= 0).sum() > 0
    assert sum(content["counts"]) == determinant.size
    assert 0.0 in content["edges"]
    below = sum(n for n, e in zip(content["counts"], content["edges"][1:], strict=True) if e <= 0)
    assert below == (determinant < 0).sum()
    assert content["worst"][0] == list(np.unravel_index(determinant.argmin(), SHAPE))
    for name, percent in content["percent"].items():
        truth = 100 * float(folding_fraction(displacement, name))
        assert percent == pytest.approx(truth, rel=5e-3)


def test_identity_neither_folds_nor_moves(case):
    nothing = torch.zeros_like(case.displacement)
    content = view_jacobian(case, nothing).content
    assert content["folded"] == 0 and content["worst"] == []
    assert set(unpacked(content["determinant"]).ravel()) == {128}
    assert view_deformation(case, nothing).content["residual"] == 0


def test_forward_field_undoes_the_pull_back(case, viewers):
    content = viewers["deformation"].content
    assert content["residual"] < 0.01
    assert content["forward"] != content["pull_back"]


def test_pyramid_measures_each_level(case, viewers):
    content = viewers["pyramid"].content
    assert content["shapes"] == [[10, 12, 9], [20, 24, 18]]
    start, coarse, fine = content["errors"]
    assert start > coarse > fine
    with pytest.raises(ValueError, match="at least one field"):
        view_pyramid(case, [])


def test_attention_counts_places(case, weights, viewers):
    content = viewers["attention"].content
    assert unpacked(content["maps"]).shape == (12, 48)
    assert (unpacked(content["maps"]).max(1) == 255).all()
    assert content["peaks"][0] == pytest.approx(float(weights[0, 0, 0].max()), rel=0.05)
    assert effective_places(np.eye(4) + 0.0) == pytest.approx(np.ones(4))
    assert effective_places(np.full((1, 8), 0.3)) == pytest.approx([8.0])


@pytest.mark.usefixtures("unchecked")
def test_attention_refuses_other_weights(case, weights):
    for wrong in (weights[0], -weights):
        with pytest.raises(ValueError, match=re.escape("(3 query axes, 3 key axes)")):
            view_attention(case, wrong)


def test_anatomy_names_its_structures(case):
    content = view_anatomy(case, case.displacement, names={1: "cortex"}).content
    assert content["names"][:3] == ["label 0", "cortex", "label 2"]
    bare = replace(case, fixed_labels=None, moving_labels=None)
    assert view_anatomy(bare, case.displacement).content["labels"]["ids"] == [0, 1]


def test_letters_follow_the_affine(case):
    turned = replace(case, affine=np.diag([-2.0, -2.0, 1.5, 1.0]))
    grid = geometry(turned)
    assert grid["letters"] == [["R", "L"], ["A", "P"], ["I", "S"]]
    assert grid["planes"] == ["sagittal", "coronal", "axial"]
    assert grid["spacing"] == [2.0, 2.0, 1.5]
    swapped = np.eye(4)[[2, 1, 0, 3]]
    assert geometry(replace(case, affine=swapped))["planes"] == ["axial", "coronal", "sagittal"]


def test_two_dimensions_are_refused_with_a_reason():
    with pytest.raises(ValueError, match="expected a case in 3-D"):
        view_slices(phantom_pair((32, 32)))


def test_size_of_a_page_at_2_mm():
    """Each viewer stays below 1 MB at 72x88x72; noise is the worst case for the compression."""
    case = phantom_pair((72, 88, 72), seed=0)
    viewers = [view(case, case.displacement) for view in (view_slices, view_jacobian, view_anatomy)]
    viewers += [view_deformation(case, case.displacement)]
    viewers += [view_pyramid(case, [case.displacement])]
    sizes = {viewer.kind: len(viewer.html()) for viewer in viewers}
    assert max(sizes.values()) < 1_000_000, sizes


def test_live_view_makes_a_new_picture_for_each_choice(case):
    pytest.importorskip("ipywidgets")
    asked = []

    def make(amount: float):
        asked.append(amount)
        return view_jacobian(case, amount * case.displacement)

    box = live_view(make, amount=[0.0, 0.5, 1.0])
    picker, picture = box.children
    (before,) = picture.outputs
    picker.value = 1.0
    (after,) = picture.outputs
    assert asked == [0.0, 1.0]
    assert "data-viewer" in after["data"]["text/html"] and before != after
    with pytest.raises(ValueError, match="at least one value of amount"):
        live_view(make, amount=[])


def test_live_attention_answers_a_click(case):
    pytest.importorskip("ipywidgets")
    asked = []

    def answer(place: tuple[int, ...]) -> torch.Tensor:
        asked.append(place)
        found = torch.zeros(4, 4, 3)
        found[1, 2, 0] = 0.75
        found[0, 0, 0] = 0.25
        return found

    box = live_attention(case, answer)
    picture, voxel, message = box.children
    assert "rg-live" in box._dom_classes and "rg-voxel" in voxel._dom_classes
    assert message.outputs == ()
    voxel.value = "3,4,5"
    html = message.outputs[0]["data"]["text/html"]
    sent = json.loads(re.search(r"receive\((.*)\);", html)[1])
    assert asked == [(3, 4, 5)]
    assert sent["keys"] == [4, 4, 3] and sent["peak"] == 0.75
    assert unpacked(sent["map"]).argmax() == np.ravel_multi_index((1, 2, 0), (4, 4, 3))
    for nonsense in ("", "1,2", "a,b,c", "99,0,0", "-1,0,0"):
        voxel.value = nonsense
    assert asked == [(3, 4, 5)]


def test_volume_without_itkwidgets_says_what_to_install(case, monkeypatch):
    for name in ("itk", "itkwidgets"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'regnet_lib[itk]'")):
        view_volume(case)


def test_bridge_becomes_an_extension_of_jupyterlab(tmp_path):
    assert install_bridge(tmp_path) is None
    packaged = tmp_path / "nbextensions" / "itkwidgets" / "itk"
    packaged.mkdir(parents=True)
    for name in ("index.js", "index.js.map", "itk/worker.js"):
        (packaged.parent / name).write_text(name)
    for _ in range(2):  # again replaces what is there
        target = install_bridge(tmp_path)
    assert target == tmp_path / "labextensions" / "regnet-itk-bridge"
    package = json.loads((target / "package.json").read_text())
    script = target / package["jupyterlab"]["_build"]["load"]
    assert package["name"] in script.read_text()
    copied = target / "static" / "nbextensions" / "itkwidgets"
    found = {path.relative_to(copied).as_posix() for path in copied.rglob("*.js*")}
    assert found == {"index.js", "itk/worker.js"}

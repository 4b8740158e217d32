"""The viewers in a real browser: they draw, react, agree with Python, and are accessible."""

import re

import numpy as np
import pytest
import torch

from regnet_lib.data import phantom_pair
from regnet_lib.spatial import jacobian_determinant, resample, resize, warp
from regnet_lib.viewers import (
    view_anatomy,
    view_attention,
    view_deformation,
    view_jacobian,
    view_pyramid,
    view_slices,
)

SHAPE = (24, 32, 28)
READY = "[data-state=ready]"
KINDS = ("slices", "deformation", "jacobian", "anatomy", "pyramid", "attention")
# What a viewer shows, as one text: it changes when a pixel does.
PIXELS = """() => [...document.querySelectorAll(".rg-stage canvas")]
  .map(one => one.toDataURL()).join()"""


@pytest.fixture(scope="module")
def case():
    return phantom_pair(SHAPE, seed=4, max_displacement_voxels=3.0)


@pytest.fixture(scope="module")
def folding(case):
    """The true displacement, made rough enough to fold somewhere."""
    random = torch.Generator().manual_seed(0)
    rough = torch.randn(1, 3, *[side // 2 for side in SHAPE], generator=random)
    return case.displacement + 0.35 * resize(rough, SHAPE)


@pytest.fixture(scope="module")
def pages(case, folding, tmp_path_factory):
    weights = torch.rand(3, 4, 3, 6, 8, 7, generator=torch.Generator().manual_seed(1)) ** 8
    weights = weights / weights.sum((3, 4, 5), keepdim=True)
    half = [side // 2 for side in SHAPE]
    viewers = {
        "slices": view_slices(case, case.displacement),
        "deformation": view_deformation(case, case.displacement),
        "jacobian": view_jacobian(case, folding),
        "anatomy": view_anatomy(case, case.displacement),
        "pyramid": view_pyramid(case, [resize(case.displacement, half), case.displacement]),
        "attention": view_attention(case, weights),
    }
    folder = tmp_path_factory.mktemp("viewers")
    for kind, viewer in viewers.items():
        viewer.save(folder / f"{kind}.html")
    return {kind: folder / f"{kind}.html" for kind in viewers}


def _changes(page, act) -> None:
    """Do it, and wait until the picture is another one; fails after some seconds."""
    before = page.evaluate(PIXELS)
    act()
    page.wait_for_function(f"before => ({PIXELS})() !== before", arg=before, timeout=8000)


def _words(page) -> str:
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    return page.locator(".rg-words").inner_text()


def _move(page, place: list[int]) -> str:
    page.evaluate("place => document.querySelector('.rg-viewer').view.moveTo(place)", place)
    return _words(page)


@pytest.mark.parametrize("kind", KINDS)
def test_viewer_reacts_to_pointer_wheel_and_keys(opened, overflow, pages, kind):
    with opened(pages[kind]) as (page, complaints):
        page.wait_for_selector(READY, timeout=10000)
        canvas = page.locator(".rg-stage canvas").first
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        if kind == "anatomy":
            page.mouse.move(box["x"] + 60, box["y"] + 60)
            page.mouse.down()
            _changes(page, lambda: page.mouse.move(box["x"] + 160, box["y"] + 90))
            page.mouse.up()
        else:
            place = {"x": box["width"] * 0.3, "y": box["height"] * 0.3}
            _changes(page, lambda: canvas.click(position=place))
        _changes(page, lambda: page.mouse.wheel(0, -120))
        # The book's theme turns pages with arrow keys, so they must end in the viewer.
        page.evaluate(
            "document.addEventListener('keydown', event => { window.leaked = event.key })"
        )
        _changes(page, lambda: page.keyboard.press("ArrowRight"))
        assert page.evaluate("window.leaked") is None
        if kind != "anatomy":
            _changes(page, lambda: page.keyboard.press("PageDown"))
        _changes(page, lambda: page.keyboard.press("Home"))
        # Digits choose in the first list.
        if kind != "attention":
            _changes(page, lambda: page.keyboard.press("2"))
            assert page.locator(".rg-bar select").first.evaluate("one => one.selectedIndex") == 1
        assert overflow(page) == (0, "")
        assert complaints == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_control_changes_the_picture(opened, pages, kind):
    with opened(pages[kind], 900) as (page, complaints):
        page.wait_for_selector(READY, timeout=10000)
        if kind == "anatomy":
            page.get_by_label("Cut", exact=True).select_option("1")
        if kind == "attention":
            _move(page, [5, 9, 20])
        for select in page.locator(".rg-bar select").all():
            chosen = select.evaluate("one => one.selectedIndex")
            following = select.evaluate("one => (one.selectedIndex + 1) % one.length")
            _changes(page, lambda: select.select_option(index=following))
            select.select_option(index=chosen)
        for slider in page.locator(".rg-bar input[type=range]").all():
            value = slider.input_value()
            middle = slider.evaluate("one => (+one.min + +one.max) / 2")
            slider.focus()
            _changes(page, lambda: page.keyboard.press("Home" if float(value) >= middle else "End"))
            _changes(page, lambda: slider.fill(value))
        for box in page.locator(".rg-bar input[type=checkbox]").all():
            _changes(page, box.click)
        for button in page.locator(".rg-bar button").all():
            _changes(page, button.click)
        assert complaints == []


@pytest.mark.parametrize("kind", KINDS)
def test_viewer_is_accessible(opened, pages, kind):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is missing")
    for width in (390, 900):
        with opened(pages[kind], width) as (page, _):
            page.wait_for_selector(READY, timeout=10000)
            found = axe.Axe().run(page, context=".rg-viewer").response["violations"]
            assert [(one["id"], one["nodes"][0]["html"][:120]) for one in found] == []


def test_wheel_scrolls_the_page_until_a_plane_is_chosen(opened, pages):
    with opened(pages["slices"]) as (page, _):
        page.wait_for_selector(READY, timeout=10000)
        page.evaluate("document.body.style.minHeight = '4000px'")
        box = page.locator(".rg-stage canvas").first.bounding_box()
        page.mouse.move(box["x"] + 20, box["y"] + 20)
        before = page.evaluate(PIXELS)
        page.mouse.wheel(0, 50)
        page.wait_for_function("() => scrollY > 0", timeout=4000)
        assert page.evaluate(PIXELS) == before


def test_bytes_in_the_browser_are_those_of_python(opened, pages, case):
    with opened(pages["slices"]) as (page, _):
        page.wait_for_selector(READY, timeout=10000)
        view = "document.querySelector('.rg-viewer').view"
        labels = page.evaluate(f"Array.from({view}.labels.fixed.data)")
        ids = np.array(page.evaluate(f"{view}.content.labels.ids"))
        assert np.array_equal(ids[labels], case.fixed_labels.numpy().ravel())
        place = [10, 20, 9]
        warped = float(warp(case.moving, case.displacement)[0, 0, 10, 20, 9])
        found = re.search(r"warped ([-\d.e]+)", _move(page, place))
        assert float(found[1]) == pytest.approx(warped, abs=0.008)


def test_vector_in_the_browser_is_that_of_python(opened, pages, case):
    place = [9, 13, 15]
    truth = np.array(place) + case.displacement[0, :, 9, 13, 15].numpy()
    with opened(pages["deformation"]) as (page, _):
        page.wait_for_selector(READY, timeout=10000)
        numbers = re.search(r"moving \(([^)]*)\)", _move(page, place))[1]
        assert [float(part) for part in numbers.split(",")] == pytest.approx(truth, abs=0.15)


def test_field_in_the_browser_is_the_one_that_was_sent(opened, pages, case):
    """At half resolution, interpolated linearly, to half a level of the bytes."""
    half = resample(case.displacement, [side // 2 for side in SHAPE])
    sent = resample(half, SHAPE)[0, :, 12].numpy()
    with opened(pages["pyramid"]) as (page, _):
        page.wait_for_selector(READY, timeout=10000)
        script = """() => {
          const view = document.querySelector(".rg-viewer").view, found = [];
          const [, height, width] = view.content.grid.shape;
          for (let j = 0; j < height; j++)
            for (let k = 0; k < width; k++) found.push(view.vector([12, j, k]));
          return found;
        }"""
        found = np.array(page.evaluate(script)).T.reshape(sent.shape)
    assert np.abs(found - sent).max() <= 0.51 * np.abs(half.numpy()).max() / 127


def test_folded_voxels_are_magenta_and_can_be_visited(opened, pages, folding):
    determinant = jacobian_determinant(folding, "central")[0, 0].numpy()
    worst = np.unravel_index(determinant.argmin(), determinant.shape)
    with opened(pages["jacobian"]) as (page, _):
        page.wait_for_selector(READY, timeout=10000)
        folded = page.evaluate(
            "() => document.querySelector('.rg-viewer').view.determinant.filter(one => !one).length"
        )
        assert folded == (determinant <= 0).sum() > 0
        page.get_by_role("button", name="Next fold").click()
        assert f"({', '.join(map(str, worst))}) · determinant folded" in _words(page)
        pixel = page.evaluate(
            """() => {
              const plane = document.querySelector(".rg-viewer").view.planes[0];
              const [x, y] = [plane.position[1], plane.rows - 1 - plane.position[2]];
              return [...plane.small.getContext("2d").getImageData(x, y, 1, 1).data];
            }"""
        )
        assert pixel == [255, 0, 255, 255]


def test_still_picture_stays_without_scripts(chromium, pages):
    context = chromium.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(pages["slices"].as_uri())
    picture = page.locator(".rg-viewer img")
    assert picture.is_visible() and "fixed, moving, warped" in picture.get_attribute("alt")
    context.close()

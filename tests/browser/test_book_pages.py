"""Every page of the built book in a browser without a network; skipped where there is no book."""

from pathlib import Path

import pytest

SITE = Path(__file__).resolve().parents[2] / "_build" / "html"
PAGES = sorted(
    path.relative_to(SITE).as_posix()
    for path in SITE.rglob("*.html")
    if "_static" not in path.relative_to(SITE).parts
)


def test_the_book_is_built():
    if not PAGES:
        pytest.skip("no built book: run `make book` first")
    assert "index.html" in PAGES


@pytest.mark.parametrize("name", PAGES)
def test_page_is_sound_on_a_phone_and_on_a_desk(opened, overflow, name):
    with opened(SITE / name) as (page, complaints):
        page.wait_for_load_state("load")
        formulas = page.locator(".math").count()
        if formulas:
            page.wait_for_selector("mjx-container", state="attached", timeout=20000)
            page.evaluate("() => MathJax.startup.promise")
            assert page.locator(".math:not(:has(mjx-container))").count() == 0
        assert page.locator("mjx-merror").count() == 0
        assert overflow(page) == (0, "")
        page.set_viewport_size({"width": 1280, "height": 900})
        assert overflow(page) == (0, "")
        assert complaints == []


# The page at the root only leads on to the cover.
@pytest.mark.parametrize("name", [name for name in PAGES if name != "index.html"])
def test_page_has_no_serious_accessibility_fault(opened, name):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is missing")
    with opened(SITE / name, 1280) as (page, _):
        page.wait_for_load_state("load")
        page.evaluate("() => window.MathJax?.startup?.promise")
        # Colors that fade from one theme to the other would be measured halfway.
        page.add_style_tag(content="* { transition: none !important }")
        for theme in ("dark", "light"):
            page.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
            options = {"resultTypes": ["violations"], "iframes": False}
            found = axe.Axe().run(page, options=options).response["violations"]
            assert [
                (theme, one["id"], one["nodes"][0]["html"][:120])
                for one in found
                if one["impact"] in ("serious", "critical")
            ] == []


def test_viewers_in_the_book_react(opened):
    if "notebooks/B_viewers.html" not in PAGES:
        pytest.skip("the chapter on the viewers is not built")
    with opened(SITE / "notebooks" / "B_viewers.html", 900) as (page, complaints):
        viewers = page.locator(".rg-viewer")
        assert viewers.count() >= 6
        for viewer in viewers.all():
            viewer.scroll_into_view_if_needed()
            page.wait_for_function(
                "one => one.dataset.state === 'ready'", arg=viewer.element_handle(), timeout=15000
            )
            assert int(viewer.get_attribute("data-milliseconds")) < 4000
            canvas = viewer.locator(".rg-stage canvas").first
            canvas.scroll_into_view_if_needed()
            box = canvas.bounding_box()
            page.mouse.move(box["x"] + 20, box["y"] + 30)
            page.mouse.down()
            _changes(page, canvas, lambda: page.mouse.move(box["x"] + 60, box["y"] + 60))
            page.mouse.up()
            _changes(page, canvas, lambda: page.mouse.wheel(0, -100))
            _changes(page, canvas, lambda: page.keyboard.press("ArrowRight"))
        assert complaints == []
    assert (SITE / "notebooks" / "B_viewers.html").stat().st_size < 6_000_000


def _changes(page, canvas, act) -> None:
    """Do it, and wait until the canvas shows something else."""
    before = canvas.evaluate("one => one.toDataURL()")
    act()
    page.wait_for_function(
        "([one, before]) => one.toDataURL() !== before",
        arg=[canvas.element_handle(), before],
        timeout=8000,
    )

"""The live form in JupyterLab itself: a click travels to Python, and the answer comes back."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.notebook_runs import kernel_environment

CELLS = (
    """import torch
from regnet_lib.data import phantom_pair
from regnet_lib import viewers
from regnet_lib.viewers import live_attention, live_view

case = phantom_pair((24, 24, 24), seed=1)


def answer(place):
    found = torch.zeros(4, 4, 4)
    found[tuple(side // 6 for side in place)] = 1
    return found


live_attention(case, answer)""",
    """live_view(
    lambda amount: viewers.view_jacobian(case, amount * case.displacement), amount=[0.0, 1.0]
)""",
    "viewers.view_slices(case, case.displacement)",
    "viewers.view_deformation(case, case.displacement)",
    "viewers.view_jacobian(case, case.displacement)",
    "viewers.view_anatomy(case, case.displacement)",
    "viewers.view_pyramid(case, [case.displacement])",
)


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    """Address of a server that shows one notebook; it ends with the module."""
    pytest.importorskip("jupyterlab", reason="jupyterlab is not installed")
    pytest.importorskip("ipywidgets", reason="ipywidgets is not installed")
    folder: Path = tmp_path_factory.mktemp("laboratory")
    cells = [
        {
            "cell_type": "code",
            "execution_count": None,
            "id": f"cell-{number}",
            "metadata": {},
            "outputs": [],
            "source": source,
        }
        for number, source in enumerate(CELLS)
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    document = {
        "cells": cells,
        "metadata": {"kernelspec": kernel},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (folder / "live.ipynb").write_text(json.dumps(document))
    own = {
        name: str(folder / name.lower()) for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR")
    }
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", "--IdentityProvider.token="]
    command += [f"--ServerApp.root_dir={folder}", "--LabApp.news_url=None"]
    with (folder / "log.txt").open("w") as log:
        environment = {**kernel_environment(), **own, "PYTHONPATH": paths}
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
    try:
        yield _address(Path(own["JUPYTER_RUNTIME_DIR"]), server, folder / "log.txt")
    finally:
        server.terminate()
        server.wait(timeout=20)


def _address(runtime: Path, server: subprocess.Popen, log: Path) -> str:
    for _ in range(200):
        records = list(runtime.glob("jpserver-*.json"))
        if records and (text := records[0].read_text()):
            return json.loads(text)["url"]
        assert server.poll() is None, log.read_text()
        time.sleep(0.2)
    raise TimeoutError(f"the server did not start:\n{log.read_text()}")


def _answered(words: str) -> bool:
    """The text names a clicked place and the block of six voxels that `answer` gives for it."""
    places = [text.split(")")[0].split(",") for text in words.split("(")[1:3]]
    blocks = [[int(part) // 6 for part in place] for place in places]
    return "looks most at" in words and len(blocks) == 2 and blocks[0] == blocks[1] != [2, 2, 2]


def test_a_click_is_answered_by_python(chromium, laboratory):
    playwright = pytest.importorskip("playwright.sync_api")
    context = chromium.new_context(viewport={"width": 1300, "height": 1000})
    # Nothing but this machine: the live form needs no network either.
    context.route(
        lambda url: not url.startswith((laboratory, "data:", "blob:")), lambda route: route.abort()
    )
    page = context.new_page()
    errors: list[str] = []
    # JupyterLab's own scripts lie under /static/; what they do without a network is not ours.
    page.on(
        "pageerror",
        lambda error: None if "/static/" in (error.stack or "") else errors.append(str(error)),
    )
    page.goto(f"{laboratory}lab/tree/live.ipynb")
    live = page.locator(".rg-viewer").first
    for _ in range(3):
        # Again, if need be: on a busy machine the page is drawn before it listens to keys.
        page.locator(".jp-Notebook .jp-InputArea-editor").first.click(timeout=40000)
        for _ in CELLS:
            page.keyboard.press("Shift+Enter")
        page.wait_for_timeout(1000)
        try:
            live.wait_for(timeout=30000)
            break
        except playwright.TimeoutError:
            pass
    live.wait_for(timeout=1000)
    live.scroll_into_view_if_needed()
    page.wait_for_selector(".rg-viewer[data-state=ready]", timeout=10000)
    live.locator("canvas").first.click(position={"x": 30, "y": 30})
    words = live.locator(".rg-words")
    # The answer comes from Python, a moment after the click has moved the crosshair.
    deadline = time.monotonic() + 20
    while not _answered(words.inner_text()) and time.monotonic() < deadline:
        page.wait_for_timeout(100)
    assert _answered(words.inner_text()), words.inner_text()
    # JupyterLab has shortcuts on arrow keys; in a viewer they move the crosshair.
    before = words.inner_text()
    page.keyboard.press("Shift+ArrowUp")
    page.wait_for_function(
        "([one, before]) => one.innerText !== before",
        arg=[words.element_handle(), before],
        timeout=10000,
    )
    # JupyterLab draws a cell when it comes into sight.
    for number in range(len(CELLS)):
        cell = page.locator(".jp-Notebook .jp-CodeCell").nth(number)
        cell.scroll_into_view_if_needed()
        cell.locator(".rg-viewer[data-state=ready]").wait_for(timeout=20000)
    assert errors == []
    context.close()

"""JupyterLab and the docs site in a real browser.

Needs Chromium: `apt-get install chromium`, or its path in $CHROMIUM. Without one these tests are skipped,
but where $SIMSEG_BROWSER is `required`, as in .ci/run, they fail.
"""
import functools
import http.server
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
from conftest import BIN, ROOT
from playwright.sync_api import expect, sync_playwright

EXECUTABLE = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
REQUIRED = os.environ.get("SIMSEG_BROWSER") == "required"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
MINUTES = 60_000  # in Playwright's milliseconds
expect.set_options(timeout=30_000)

pytestmark = pytest.mark.skipif(not EXECUTABLE and not REQUIRED, reason="no Chromium here: apt-get install chromium, or set CHROMIUM to its path")


@pytest.fixture(scope="module")
def browser():
    assert EXECUTABLE, "SIMSEG_BROWSER=required, but there is no Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=EXECUTABLE, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    "A page of 1400 × 1000 pixels that remembers what went wrong on it."
    page = browser.new_page(viewport={"width": 1400, "height": 1000}, color_scheme="light")
    page.errors = []
    page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    # aborted: the page was left before all of it had come
    page.on("requestfailed", lambda request: page.errors.append(f"{request.url} failed: {request.failure}") if request.failure != "net::ERR_ABORTED" else None)
    page.on("request", lambda request: page.errors.append(f"asks a network for {request.url}") if not re.match(r"https?://127\.0\.0\.1|data:|blob:|file:", request.url) else None)
    yield page
    page.close()


# JupyterLab

def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "JupyterLab on loopback with settings of its own, on a copy of 06_explore, since Lab saves what it runs."
    folder, port, token = tmp_path_factory.mktemp("lab"), free_port(), secrets.token_hex()
    (folder / "notebooks").mkdir()
    shutil.copy(ROOT / "nbs" / "06_explore.ipynb", folder / "notebooks")
    own = {name: str(folder / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")}
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    options = ["--allow-root", "--no-browser", "--ip=127.0.0.1", f"--port={port}", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder / 'notebooks'}",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url=None"]
    with open(folder / "log.txt", "w") as log:
        server = subprocess.Popen([BIN / "jupyter", "lab", *options], cwd=folder, env={**os.environ, **own, "PYTHONPATH": python_path}, stdout=log, stderr=log)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status?token={token}", timeout=5)
                break
            except OSError: time.sleep(0.5)
        else: raise AssertionError((folder / "log.txt").read_text()[-3000:])
        yield f"http://127.0.0.1:{port}/lab/tree/06_explore.ipynb?token={token}"
    finally:
        server.terminate()
        server.wait(30)


def test_every_widget_follows_its_slider(lab, page):
    page.goto(lab)
    idle = page.get_by_role("button", name="Python 3 (ipykernel) | Idle")
    expect(idle).to_be_visible(timeout=5 * MINUTES)  # cells that are run before there is a kernel wait for ever
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    explorers, failed = page.locator(".jp-OutputArea .widget-vbox:has(> .widget-html img)"), page.locator(".jp-OutputArea-output", has_text="Traceback (most recent call last)")
    expect(explorers.nth(4).or_(failed).first).to_be_attached(timeout=10 * MINUTES)
    assert not failed.count(), failed.first.inner_text()
    expect(idle).to_be_visible(timeout=3 * MINUTES)
    assert explorers.count() == 5
    for i in range(5):
        picture, redrawn = explorers.nth(i).locator(".widget-html img"), False
        for handle in explorers.nth(i).locator(".noUi-handle:visible").all():
            before = picture.evaluate("image => [image.outerHTML, image.src]")
            handle.focus()
            handle.press("ArrowRight" if handle.get_attribute("aria-valuenow") != handle.get_attribute("aria-valuemax") else "ArrowLeft")
            expect(picture).not_to_have_js_property("outerHTML", before[0], timeout=MINUTES)
            redrawn |= picture.evaluate("image => image.src") != before[1]
        assert redrawn, f"no slider of widget {i} changes its picture"


# The docs site

@pytest.fixture(scope="module")
def site():
    "The site, built anew and served on loopback."
    build = subprocess.run([sys.executable, ROOT / "docs" / "build.py"], cwd=ROOT, capture_output=True, text=True)
    assert build.returncode == 0, (build.stdout + build.stderr)[-3000:]
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=ROOT / "_docs" / "html")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_search_finds_nt_xent(site, page):
    page.goto(f"{site}/index.html")
    page.locator("input[name=q]").fill("NT-Xent")
    page.locator("input[name=q]").press("Enter")
    found = page.locator("#search-results li a", has_text="SimCLR").first
    found.click(timeout=MINUTES)
    expect(page.locator("h1")).to_contain_text("SimCLR")
    expect(page.locator("mjx-container").first).to_be_visible()  # MathJax is there without a network
    assert not page.errors


def test_every_navigation_link_leads_to_a_page(site, page):
    page.goto(f"{site}/index.html")
    links = page.locator(".sidebar-tree a").evaluate_all("links => links.map(a => a.href)")
    notebooks = {re.sub(r"^\d+_", "", p.stem) for p in (ROOT / "nbs").glob("*.ipynb")} - {"index"}
    assert {re.sub(r".*/|\.html.*", "", link) for link in links} >= notebooks | {"api", "report"}
    for link in dict.fromkeys(links):
        page.goto(f"{site}/index.html")
        page.locator(f".sidebar-tree a[href='{link.removeprefix(site + '/')}']").click()
        page.wait_for_load_state("networkidle")
        expect(page.locator("h1").first).to_be_visible()
        assert page.url == link and page.title()
        assert not page.locator("img:not([alt]), img[alt='']").count(), link
        assert not page.errors, link


def test_saved_widgets_show_without_a_kernel(site, page):
    page.goto(f"{site}/explore.html")
    expect(page.locator(".widget-html img")).to_have_count(5, timeout=MINUTES)
    assert not page.errors


def test_dark_mode(site, page):
    page.goto(f"{site}/explore.html")
    darkness = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).slice(0, 3).map(Number).reduce((a, b) => a + b)")
    assert darkness() > 3 * 230
    for _ in range(3):
        if page.locator("body").get_attribute("data-theme") != "dark": page.locator(".theme-toggle:visible").first.click()
    expect(page.locator("body")).to_have_attribute("data-theme", "dark")
    assert darkness() < 3 * 40
    page.goto(f"{site}/index.html")
    expect(page.locator("body")).to_have_attribute("data-theme", "dark")
    assert not page.errors


def test_the_site_opens_from_disk(site, page):
    "No server, no network: the first page, a formula, a saved widget and the search."
    html = ROOT / "_docs" / "html"
    for name, shown in (("index", "h1"), ("simclr", "mjx-container"), ("explore", ".widget-html img"), ("search", "#search-results li a")):
        page.goto((html / f"{name}.html").as_uri() + ("?q=NT-Xent" if name == "search" else ""))
        expect(page.locator(shown).first).to_be_visible(timeout=MINUTES)
    assert not page.errors

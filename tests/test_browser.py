"""JupyterLab and the docs site in a real browser.

Needs Chromium: `apt-get install chromium`, or its path in $CHROMIUM. Without one these tests are skipped,
but where $SIMSEG_BROWSER is `required`, as in .ci/run, they fail.
"""
import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading

import pytest
from browser import EXECUTABLE, EXPLORERS, FLAGS, MINUTES, run_all_cells, serve_lab
from conftest import ROOT
from playwright.sync_api import expect, sync_playwright

from simseg.base.files import write_yaml
from simseg.evaluation import run_evaluation
from simseg.simclr import run_simclr
from simseg.study.grid import study_runs
from simseg.study.files import check_study
from simseg.unet import run_unet

REQUIRED = os.environ.get("SIMSEG_BROWSER") == "required"
expect.set_options(timeout=30_000)

WITHOUT = "no Chromium here: apt-get install chromium, or set CHROMIUM to its path"
pytestmark = pytest.mark.skipif(not EXECUTABLE and not REQUIRED, reason=WITHOUT)


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

    def on_console(message):
        if message.type == "error": page.errors.append(message.text)

    def on_failure(request):
        if request.failure == "net::ERR_ABORTED": return  # the page was left before all of it had come
        page.errors.append(f"{request.url} failed: {request.failure}")

    def on_request(request):
        if re.match(r"https?://127\.0\.0\.1|data:|blob:|file:", request.url): return
        page.errors.append(f"asks a network for {request.url}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("requestfailed", on_failure)
    page.on("request", on_request)
    yield page
    page.close()


# JupyterLab

STUDY = {
    "name": "small", "image_size": 32, "label_ratios": [0.8, 0.2], "seeds": [0], "device": "cpu",
    "encoders": {"scratch": None, "animals": {"dataset": "synthetic"}},
    "simclr": {"max_images": 64, "batch_size": 32, "epochs": 1, "optimizer": "adamw", "learning_rate": 1e-3},
    "unet": {"dataset": "synthetic", "max_images": 60, "batch_size": 8, "epochs": 2, "learning_rate": 1e-3},
}


def run_small_study():
    "Two encoders at two ratios, in outputs/ of the repository that the test stands in."
    study = check_study(STUDY)
    write_yaml("outputs/small/study.yaml", study)
    stages = {"simclr": run_simclr, "unet": run_unet, "evaluation": run_evaluation}
    for run in study_runs(study): stages[run.stage](run.params)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "The address of a copy of tutorials/explore in JupyterLab, since Lab saves what it runs, with a study to explore."
    folder = tmp_path_factory.mktemp("lab")
    (folder / "nbs").mkdir()
    (folder / "settings.ini").touch()  # which makes it the top of a repository
    shutil.copy(ROOT / "nbs" / "tutorials" / "explore.ipynb", folder / "nbs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_small_study()
    with serve_lab(folder, folder / "nbs") as address: yield address("explore.ipynb")


def test_every_widget_follows_its_slider(lab, page):
    run_all_cells(page, lab)
    explorers = page.locator(EXPLORERS)
    assert explorers.count() == 4
    for i in range(4):
        picture = explorers.nth(i).locator(".widget-html img")
        redrawn = False
        for handle in explorers.nth(i).locator(".noUi-handle:visible").all():
            before = picture.evaluate("image => [image.outerHTML, image.src]")
            handle.focus()
            at_its_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
            handle.press("ArrowLeft" if at_its_end else "ArrowRight")
            expect(picture).not_to_have_js_property("outerHTML", before[0], timeout=MINUTES)
            redrawn |= picture.evaluate("image => image.src") != before[1]
        assert redrawn, f"no slider of widget {i} changes its picture"


# The docs site

@pytest.fixture(scope="module")
def site():
    "The site, built anew and served on loopback."
    command = [sys.executable, ROOT / "nbs" / "docs" / "build.py"]
    build = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
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


@pytest.mark.parametrize("words, found", [("own data", "own_data"), ("GPU", "gpu"), ("Slurm", "cluster"),
                                          ("verdict", "reading_a_report"), ("add a loss", "adding")])
def test_search_puts_how_to_pages_first(site, page, words, found):
    page.goto(f"{site}/search.html?q={words}")
    first = page.locator("#search-results li a").first
    expect(first).to_be_visible(timeout=MINUTES)
    expect(page.locator("#search-results .search-summary")).to_contain_text("found", timeout=MINUTES)
    assert f"tutorials/{found}.html" in first.get_attribute("href")


WIDTHS = [390, 1280, 1600]
TOO_WIDE = """() => [document.documentElement, ...document.querySelectorAll("article .highlight pre")]
                 .filter(it => it.scrollWidth > it.clientWidth + 1).map(it => it.innerText.slice(0, 80))"""


def test_every_page_is_whole_and_nothing_is_clipped(site, page):
    "No page is wider than its window, and code goes on below where a line is long; wide tables scroll in themselves."
    html = ROOT / "_docs" / "html"
    for path in [*html.glob("*.html"), *html.glob("tutorials/*.html")]:
        page.goto(f"{site}/{path.relative_to(html).as_posix()}")
        assert not page.locator("img:not([alt]), img[alt='']").count(), path
        assert not page.errors, path
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate(TOO_WIDE) == [], (path, width)


def test_every_navigation_link_leads_to_a_page(site, page):
    page.goto(f"{site}/index.html")
    links = page.locator(".sidebar-tree a").evaluate_all("links => links.map(a => a.href)")
    notebooks = {re.sub(r"^\d+[a-z]?_", "", p.stem) for p in (ROOT / "nbs").glob("*.ipynb")} - {"index"}
    notebooks |= {path.stem for path in (ROOT / "nbs" / "tutorials").glob("*.ipynb")}
    assert {re.sub(r".*/|\.html.*", "", link) for link in links} >= notebooks | {"api"}
    page.locator(f".sidebar-tree a[href='{links[-1].removeprefix(site + '/')}']").click()
    page.wait_for_url(links[-1])
    for link in dict.fromkeys(links):
        page.goto(link)
        expect(page.locator("h1").first).to_be_visible()
        assert page.url == link and page.title()
        assert not page.locator("img:not([alt]), img[alt='']").count(), link
        assert not page.errors, link


def test_saved_widgets_show_without_a_kernel(site, page):
    page.goto(f"{site}/tutorials/explore.html")
    expect(page.locator(".widget-html img")).to_have_count(4, timeout=MINUTES)
    assert not page.errors


def test_dark_mode(site, page):
    page.goto(f"{site}/tutorials/explore.html")

    def darkness():
        "The sum of the background's red, green and blue."
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(float(part) for part in re.findall(r"[0-9.]+", colour)[:3])

    assert darkness() > 3 * 230
    for _ in range(3):
        if page.locator("body").get_attribute("data-theme") == "dark": break
        page.locator(".theme-toggle:visible").first.click()
    expect(page.locator("body")).to_have_attribute("data-theme", "dark")
    assert darkness() < 3 * 40
    page.goto(f"{site}/index.html")
    expect(page.locator("body")).to_have_attribute("data-theme", "dark")
    assert not page.errors


def test_the_site_opens_from_disk(site, page):
    "No server, no network: the first page, a formula, a saved widget and the search."
    html = ROOT / "_docs" / "html"
    pages = {
        "index.html": "h1",
        "simclr.html": "mjx-container",
        "tutorials/explore.html": ".widget-html img",
        "search.html?q=NT-Xent": "#search-results li a",
    }
    for name, shown in pages.items():
        page.goto(f"{html.as_uri()}/{name}")
        expect(page.locator(shown).first).to_be_visible(timeout=MINUTES)
    assert not page.errors

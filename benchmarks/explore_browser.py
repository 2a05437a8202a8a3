"""How long does a move in tutorials/explore take, seen from a browser? From the key to the new picture, in seconds: the
median of each slider's moves, and of all moves the share under 0.3 s. Needs Chromium, and a study that has run.

    python benchmarks/explore_browser.py
    python benchmarks/explore_browser.py --busy 2     while so many processes compute
"""
import contextlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import finish, parse

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from browser import EXECUTABLE, EXPLORERS, FLAGS, run_all_cells, serve_lab  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

MOVES = 8  # of a slider
QUICK = 0.3  # seconds


@contextlib.contextmanager
def computing(n: int):
    "So many processes that compute all the while."
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try: yield
    finally:
        for process in busy: process.kill()


def seconds_of_moves(explorer, slider) -> list[float]:
    "Move a slider by keys, and wait each time until the picture or its sentence is another."
    picture = explorer.locator(".widget-html img")
    handle = slider.locator(".noUi-handle")
    times = []
    for _ in range(MOVES):
        at_its_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
        before = picture.evaluate("image => image.outerHTML")
        start = time.perf_counter()
        handle.press("ArrowLeft" if at_its_end else "ArrowRight")
        explorer.page.wait_for_function("([image, before]) => !image.isConnected || image.outerHTML !== before",
                                        arg=[picture.element_handle(), before], polling="raf")
        times.append(time.perf_counter() - start)
    return times


def measure(page) -> list[dict]:
    "A row a slider of every widget."
    rows = []
    for explorer in page.locator(EXPLORERS).all():
        title = explorer.locator("xpath=preceding::h2[1]").text_content().strip("¶")
        for slider in explorer.locator(".widget-slider:visible").all():
            times = seconds_of_moves(explorer, slider)
            name = slider.locator(".widget-label").first.inner_text()
            rows.append({"widget": title, "slider": name, "moves": len(times), "times": times})
    return rows


if __name__ == "__main__":
    args = parse(__doc__, busy=0)
    with tempfile.TemporaryDirectory(dir=ROOT / "outputs") as folder, sync_playwright() as playwright:
        shutil.copy(ROOT / "nbs" / "tutorials" / "explore.ipynb", folder)
        page = playwright.chromium.launch(executable_path=EXECUTABLE, args=FLAGS).new_page()
        page.set_viewport_size({"width": 1400, "height": 1000})
        with serve_lab(Path(folder), Path(folder)) as address, computing(args.busy):
            run_all_cells(page, address("explore.ipynb"))
            rows = measure(page)
    every = []
    for row in rows:
        times = row.pop("times")
        every += times
        row |= {"seconds": f"{statistics.median(times):.3f}", "slowest": f"{max(times):.3f}"}
    print(f"{sum(seconds < QUICK for seconds in every)} of {len(every)} moves took less than {QUICK} s")
    finish("explore_browser", rows, args)

"JupyterLab and a real browser, for test_browser.py and for benchmarks/explore_browser.py."
import contextlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import expect

ROOT = Path(__file__).resolve().parent.parent
INSTALLED = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
EXECUTABLE = os.environ.get("CHROMIUM") or next(filter(None, INSTALLED), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
MINUTES = 60_000  # in Playwright's milliseconds
EXPLORERS = ".jp-OutputArea .widget-vbox:has(> .widget-html img)"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def serve_lab(settings: Path, notebooks: Path):
    "JupyterLab on loopback over a folder of notebooks, with settings of its own; yields notebooks' addresses by name."
    port = free_port()
    token = secrets.token_hex()
    folders = ["JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR"]
    own = {name: str(settings / name.lower()) for name in folders}
    own["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    options = ["--allow-root", "--no-browser", "--ip=127.0.0.1", f"--port={port}",
               f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={notebooks}",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url=None"]
    with open(settings / "log.txt", "w") as log:
        command = [Path(sys.executable).parent / "jupyter", "lab", *options]
        server = subprocess.Popen(command, cwd=settings, env={**os.environ, **own}, stdout=log, stderr=log)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status?token={token}", timeout=5)
                break
            except OSError: time.sleep(0.5)
        else: raise AssertionError((settings / "log.txt").read_text()[-3000:])
        yield lambda name: f"http://127.0.0.1:{port}/lab/tree/{name}?token={token}"
    finally:
        server.terminate()
        server.wait(30)


def run_all_cells(page, address: str):
    "Open a notebook and run it from top to bottom; raises `AssertionError` with the traceback where a cell fails."
    page.goto(address)
    idle = page.get_by_role("button", name="Python 3 (ipykernel) | Idle")
    expect(idle).to_be_visible(timeout=5 * MINUTES)  # cells that are run before there is a kernel wait for ever
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    last = page.locator(".jp-CodeCell").last.locator(".jp-InputPrompt")
    failed = page.locator(".jp-OutputArea-output", has_text="Traceback (most recent call last)")
    counted = last.filter(has_text=re.compile(r"\[\d+\]"))
    expect(counted.or_(failed).first).to_be_attached(timeout=10 * MINUTES)
    assert not failed.count(), failed.first.inner_text()
    expect(idle).to_be_visible(timeout=10 * MINUTES)

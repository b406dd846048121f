"""A browser, and Jupyter servers for it to open: for tests that look at a page as its reader does."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@contextmanager
def open_page(**settings) -> Iterator:
    """A page of a headless browser; ``page.said`` lists the errors it wrote to its console."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        page = browser.new_page(**{"viewport": {"width": 1200, "height": 900}, **settings})
        page.said = []
        page.on("console", lambda message: page.said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.said.append(error.stack))
        try:
            yield page
        finally:
            browser.close()


def axe_faults(page, context: dict | None = None, only: list[str] | None = None) -> dict[str, list[str]]:
    """What axe-core finds on a page: rule -> the first elements that break it. only: these rules; None: all."""
    from axe_playwright_python.sync_playwright import Axe

    options = {"resultTypes": ["violations"], "preload": False} | ({"runOnly": only} if only else {})
    rules = Axe().run(page, context=context, options=options).response["violations"]
    return {rule["id"]: [node["html"][:150] for node in rule["nodes"][:3]] for rule in rules}


@contextmanager
def jupyter(app: str, folder: Path, scratch: Path) -> Iterator[str]:
    """Serve a folder with ``python -m app`` and settings of its own; gives its address. It ends with its kernels."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    own = {name: str(scratch / name.lower()) for name in names}
    own |= {"JUPYTER_PREFER_ENV_PATH": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable, "-m", app, "--no-browser", "--allow-root", f"--ServerApp.root_dir={folder}",
        "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
        "--IdentityProvider.token=", "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    log = scratch / "server.log"
    with open(log, "wb") as output:
        server = psutil.Popen(command, env=os.environ | own, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    seen = {server}
    try:
        _wait_for(f"http://127.0.0.1:{port}/api", server, log)
        yield f"http://127.0.0.1:{port}"
        seen.update(server.children(recursive=True))
    finally:
        if server.is_running():
            seen.update(server.children(recursive=True))
        for process in seen:
            try:
                process.kill()  # kernels have sessions of their own
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(seen, timeout=10)


def _wait_for(address: str, server: psutil.Popen, log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError(f"no server at {address}:\n{log.read_text(encoding='utf-8', errors='replace')[-2000:]}")

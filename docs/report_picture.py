"""Draw ``report.png`` again: ``python docs/report_picture.py`` (needs the extra ``test``, and Chromium)."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch
import torchvision
from PIL import Image
from playwright.sync_api import sync_playwright

from cospipe.exploration import explore
from cospipe.ir.exploration import Limits
from cospipe.ir.soc import load_soc
from cospipe.report import write_report

SOC = "hikey970"
LIMITS = Limits(memory_bytes=60_000_000)
WIDTH, HEIGHT = 1280, 1166
COLOURS = 128
"""Enough for flat colours, and a third of the bytes."""


def main() -> None:
    """Write ``report.png`` beside this script: the upper part of the report on GoogLeNet."""
    network = torchvision.models.googlenet(weights=None, init_weights=False).eval()
    name = "torchvision.models:googlenet"
    found = explore(network, torch.zeros(1, 3, 224, 224), soc=SOC, limits=LIMITS, name=name, progress=print)
    picture = Path(__file__).with_name("report.png")
    with tempfile.TemporaryDirectory() as folder:
        photograph(write_report(folder, *found, load_soc(SOC)), picture)
    Image.open(picture).quantize(COLOURS).save(picture, optimize=True)
    print(f"wrote {picture}")


def photograph(page: Path, picture: Path) -> None:
    """Open a page in Chromium and write what a window shows of it."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        window = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        window.goto(page.as_uri())
        window.wait_for_selector("#chart-roofline svg.main-svg")
        window.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    main()

"""Make the pictures of README and guide anew, with this version: of the demo's front, and of its page in a browser.

    python docs/pictures.py     # or: make pictures

Runs the demo of experiments/digits twice, guided and at random, which takes minutes. Needs Chromium and its driver, as
``make test-slow`` does. The curves of the performance page are drawn by their benchmarks, which take hours.
"""

from __future__ import annotations

import base64
import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

import qexplore as qx

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
sys.path.insert(0, str(ROOT / "benchmarks"))

from report_page import DESKTOP, PHONE, browser  # noqa: E402


def main() -> None:
    """Explore, draw, photograph."""
    with tempfile.TemporaryDirectory() as folder:
        guided, random = (explored(Path(folder, name)) for name in ("digits", "random"))
        os.chdir(folder)  # the page names its study as it is given
        studies = [shutil.copy(one / "study.db", f"{one.name}.db") for one in (guided, random)]
        for name in ("front.png", "experiments/digits.png"):
            save(Image.open(guided / "front.png"), IMAGES / name)
        one = qx.report(studies[0], Path(folder, "one.html"), title="A small network on handwritten digits")
        title = "Guided and random search side by side"
        both = qx.report(studies, Path(folder, "both.html"), labels=["guided", "random"], title=title)
        photograph(one, "report-desktop", (DESKTOP[0], 1080))
        photograph(one, "report-dark", (DESKTOP[0], 1080), dark=True)
        photograph(one, "report-phone", (PHONE[0], 1380))
        photograph(both, "report-runs", (DESKTOP[0], 1480))


def explored(folder: Path) -> Path:
    """The folder with the study and the pictures of a run of the demo, at random where that is its name."""
    algorithm = "random" if folder.name == "random" else "nsga2"
    demo = ROOT / "experiments" / "digits" / "run.py"
    subprocess.run([sys.executable, demo, "--algorithm", algorithm, "--output", folder], check=True)
    return folder


def photograph(page: Path, name: str, size: tuple[int, int], *, dark: bool = False) -> None:
    """The top of a page, as large as the window."""
    with browser(size, dark=dark) as driver:
        driver.get(page.as_uri())
        driver.execute_script("drawVisible(true); drawFront()")
        taken = driver.execute_cdp_cmd("Page.captureScreenshot", {})
    save(Image.open(io.BytesIO(base64.b64decode(taken["data"]))), IMAGES / f"{name}.png")


def save(picture: Image.Image, path: Path) -> None:
    """With 256 colours, which is as small as it looks the same."""
    picture.convert("RGB").quantize(256).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()

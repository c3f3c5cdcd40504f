"""What a page of a report costs: its size, the time to write it, and the time until a browser answers.

    python benchmarks/report_page.py

A made-up run of 2,000 evaluations of 120 layers. Needs selenium, Chromium and chromedriver.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import qexplore as qx
from qexplore.report._page_front import Measured
from qexplore.report._page_html import page_html
from qexplore.report._page_runs import Known, run_page
from qexplore.report._page_sources import page_record

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DESKTOP, PHONE = (1400, 900), (390, 844)


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--evaluations", type=int, default=2000)
    options.add_argument("--layers", type=int, default=120)
    options.add_argument("--repeats", type=int, default=5)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page.html")
        start = time.perf_counter()
        page.write_text(page_html(record_of(arguments.evaluations, arguments.layers)), encoding="utf-8")
        print(f"{arguments.evaluations} evaluations of {arguments.layers} layers, 60 of them on the front")
        print(f"written in {time.perf_counter() - start:.2f} s, {page.stat().st_size / 1e6:.2f} MB")
        for name in ("front shown, points and table answer", "charts drawn and clickable"):
            print(f"  {name}: {' '.join(f'{one:.2f}' for one in shown_after(page, arguments.repeats)[name])} s")


def record_of(evaluations: int, layers: int) -> Any:
    """A page of as many candidates, of which 60 are a front and 7 are uniform."""
    rng = np.random.default_rng(0)
    fields = {"point_names": tuple(f"encoder.layers.{place}.activation" for place in range(layers))}

    def front(num_bits: Any) -> qx.Front:
        count = len(num_bits)
        costs = np.linspace(1e5, 9e5, count)[:, None]
        return qx.Front(num_bits=num_bits, accuracy=np.linspace(0.5, 0.9, count), costs=costs, **fields)

    uniform = front(np.repeat(np.arange(2, 9)[:, None], layers, axis=1))
    points = front(rng.integers(2, 9, (60, layers)))
    count = evaluations - 67
    measured = Measured(rng.integers(2, 9, (count, layers)), 0.9 * rng.random(count), 9e5 * rng.random((count, 1)))
    return replace(page_record(points), runs=(run_page("run", points, uniform, Known(measured=measured)),))


@contextmanager
def browser(size: tuple[int, int] = DESKTOP, *, dark: bool = False) -> Iterator[Any]:
    """Headless Chromium."""
    binary, service = next(filter(None, map(shutil.which, BROWSERS)), None), shutil.which("chromedriver")
    if binary is None or service is None:
        print("needs Chromium and its driver: apt-get install chromium chromium-driver")
        sys.exit(2)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] == PHONE[0]}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    try:
        yield driver
    finally:
        driver.quit()


def shown_after(page: Path, repeats: int) -> dict[str, list[float]]:
    """Seconds from the beginning of the navigation on, by what is there then."""
    asked = "return ['words', 'charts'].map((name) => performance.getEntriesByName(name)[0].startTime)"
    rows = []
    with browser() as driver:
        for _ in range(repeats):
            driver.get("about:blank")
            driver.get(page.as_uri())
            rows.append(driver.execute_script(asked))
    words, charts = zip(*rows, strict=True)
    names = "front shown, points and table answer", "charts drawn and clickable"
    return dict(zip(names, ([value / 1000 for value in times] for times in (words, charts)), strict=True))


if __name__ == "__main__":
    main()

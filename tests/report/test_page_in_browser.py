"""The page of a report as a browser shows it: headless Chromium, driven by selenium."""

from __future__ import annotations

import csv
import json
import shutil
import time
import types

import numpy as np
import pytest
from networks import batches, digits
from problems import search_loader, tiny_model, tiny_problem

import qexplore as qx
from qexplore.study import Store

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HOSTILE = '<img src="https://example.org/x" onerror="document.title=1"></script><script>document.title=2</script>'
DESKTOP, PHONE = (1400, 900), (390, 844)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """A browser that cannot go anywhere, and notes down every request."""
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    service = shutil.which("chromedriver")
    if binary is None or service is None:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    folder = tmp_path_factory.mktemp("downloads")
    started.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    started.downloads = folder
    yield started
    started.quit()


@pytest.fixture(scope="module")
def exploration():
    problem = tiny_problem(upper=8, min_accuracy=0.85, costs=["total_bits", "activation_bytes"])
    return qx.explore(
        problem, max_evaluations=40, seed=1, progress=False, report_loader=batches(digits().report, 100)[:2]
    )


@pytest.fixture(scope="module")
def page(exploration, tmp_path_factory):
    problem = tiny_problem(upper=8)
    return qx.report(
        exploration,
        tmp_path_factory.mktemp("page") / "run.html",
        sensitivity=qx.sensitivity(problem, progress=False),
        analysis=qx.analyze(problem.model, search_loader()),
    )


def opened(driver, page, size=DESKTOP, dark=False):
    """The page drawn as a whole; nothing was asked of any other place, and nothing went wrong."""
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    width, height = size
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    driver.get("about:blank")
    driver.get_log("performance"), driver.get_log("browser")
    driver.get(page.as_uri())
    driver.execute_script("drawVisible(true)")
    assert not asked_elsewhere(driver, page)
    assert driver.get_log("browser") == []
    return driver


def asked_elsewhere(driver, page):
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    requests = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    return [url for url in requests if url != page.as_uri() and not url.startswith(("data:", "blob:"))]


def text(driver, id_):
    return driver.find_element("id", id_).text


def chosen(driver):
    return driver.execute_script("return STATE.row")


def press(driver, words, inside="body"):
    buttons = driver.find_elements("css selector", f"{inside} button")
    [button] = [one for one in buttons if one.text == words]
    driver.execute_script("arguments[0].click()", button)


def downloaded(driver, name):
    """The file once it is there; a browser writes it beside the script that asked for it."""
    for _ in range(100):
        if (driver.downloads / name).exists():
            return driver.downloads / name
        time.sleep(0.1)
    raise AssertionError(f"no {name} among {sorted(driver.downloads.iterdir())}")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_page_opens_in_its_width_and_in_the_colours_of_the_system(driver, page, size, dark):
    opened(driver, page, size, dark)
    charts = ("front", "map", "parallel", "progress", "sensitivity", "analysis")
    shown = driver.execute_script("return [...document.querySelectorAll('.main-svg')].map(s => s.closest('.chart').id)")
    ground = driver.execute_script("return getComputedStyle(document.body).backgroundColor")

    assert set(shown) == set(charts)
    assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
    assert (ground == "rgb(17, 20, 24)") == dark
    assert driver.execute_script("return theme") == "system"


def test_theme_can_be_switched(driver, page):
    opened(driver, page)
    for theme in ("light", "dark", "system"):
        driver.find_element("id", "theme").click()
        assert text(driver, "theme") == f"Theme: {theme}"
        assert driver.execute_script("return document.documentElement.dataset.theme") == theme.replace(
            "system", "light"
        )


def test_click_on_a_point_selects_it(driver, page, exploration):
    from selenium.webdriver.common.actions.action_builder import ActionBuilder

    opened(driver, page)
    driver.execute_script("window.scrollTo(0, 0)")
    place = "const f = byId('front'); const l = f._fullLayout; const b = f.getBoundingClientRect();"
    wanted = len(exploration.front) - 1
    x, y = driver.execute_script(
        f"{place} const r = {wanted}; return [b.left + l.xaxis._offset + l.xaxis.d2p(cost().values[r]), "
        "b.top + l.yaxis._offset + l.yaxis.d2p(score().values[r])]"
    )
    actions = ActionBuilder(driver)
    actions.pointer_action.move_to_location(round(x), round(y)).click()
    actions.perform()

    assert chosen(driver) == wanted
    assert text(driver, "point-title").startswith(f"Point {wanted}")
    point = exploration.front[wanted]
    assert f"{point.report_accuracy:.4f}" in text(driver, "point-figures")
    assert f'model.num_bits = {{"input": {point.num_bits[0]}, ' in text(driver, "apply")
    rows = driver.find_elements("css selector", "#layers tbody tr")
    assert [row.text.split()[:2] for row in rows] == [
        [n, str(w)] for n, w in zip(point.widths, point.num_bits, strict=True)
    ]


def test_keys_walk_along_the_front(driver, page):
    from selenium.webdriver import Keys

    opened(driver, page)
    order = driver.execute_script("return steps()")
    chart = driver.find_element("id", "front")
    chart.send_keys(Keys.HOME)
    assert chosen(driver) == order[0]
    chart.send_keys(Keys.ARROW_RIGHT)
    assert chosen(driver) == order[1]
    chart.send_keys(Keys.END)
    assert chosen(driver) == order[-1]
    chart.send_keys(Keys.ENTER)
    assert driver.execute_script("return document.activeElement.id") == "point"


def test_filter_keeps_points_and_the_selection_among_them(driver, page, exploration):
    opened(driver, page)
    front = exploration.front
    least = float(np.sort(front.report_accuracy)[-2])
    kept = np.flatnonzero(front.report_accuracy >= least).tolist()
    field = driver.find_element("css selector", "#filters input[type=number]")
    field.send_keys(str(least), "\n")

    assert sorted(driver.execute_script("return steps()")) == kept
    assert chosen(driver) in kept
    assert f"{len(kept)} of {len(front)} points kept" in text(driver, "kept")
    assert len(driver.find_elements("css selector", "#table tbody tr")) == len(kept)
    press(driver, "Keep all", "#kept")
    assert f"{len(front)} of {len(front)} points kept" in text(driver, "kept")


def test_downloads_are_read_back(driver, page, exploration, tmp_path):
    opened(driver, page)
    press(driver, "Download CSV", "#table-controls")
    press(driver, "Download front (JSON)", "#table-controls")
    driver.execute_script("select(1)")
    press(driver, "Download this point (JSON)", "#apply")

    front = exploration.front
    rows = list(csv.DictReader(downloaded(driver, "nsga2-seed-1.csv").read_text().splitlines()))
    wanted = list(csv.DictReader(front.to_csv().splitlines()))
    assert [{name: float(row[name]) for name in row} for row in rows] == [
        {name: float(row[name]) for name in rows[0]} for row in wanted
    ]
    assert qx.Front.load(downloaded(driver, "nsga2-seed-1.json")).to_json() == front.to_json()
    [point] = qx.Front.load(downloaded(driver, "nsga2-seed-1-point-1.json"))
    assert (point.num_bits, point.accuracy, point.costs) == (front[1].num_bits, front[1].accuracy, front[1].costs)
    model = tiny_model()
    point.apply_to(model)
    qx.save_manifest(model, tmp_path / "widths.json")
    assert qx.load_manifest(tmp_path / "widths.json").num_bits == front[1].num_bits


def test_table_sorts_and_a_row_selects(driver, page, exploration):
    opened(driver, page)
    press(driver, "total bits", "#table thead")
    press(driver, "total bits ▲", "#table thead")
    first = driver.find_element("css selector", "#table tbody tr")
    driver.execute_script("arguments[0].click()", first)

    assert chosen(driver) == int(exploration.front.cost("total_bits").argmax())
    assert "chosen" in first.get_attribute("class")


def test_names_are_shown_as_text_and_nothing_of_them_runs(driver, tmp_path):
    bits, accuracy = np.array([[2, 3], [4, 5]]), np.array([0.5, 0.9])
    front = qx.Front(
        num_bits=bits,
        accuracy=accuracy,
        costs=np.array([[5.0], [9.0]]),
        point_names=(HOSTILE, "b"),
        metric_name=HOSTILE,
    )
    page = qx.report([front, front], tmp_path / "page.html", labels=[HOSTILE, "other"], title=HOSTILE)
    opened(driver, page)

    assert driver.title == HOSTILE
    assert driver.find_elements("tag name", "img") == []
    assert HOSTILE in text(driver, "layers")
    assert HOSTILE in text(driver, "runs")


def test_what_a_script_asks_for_does_not_leave_the_page(driver, page):
    opened(driver, page)
    answer = driver.execute_async_script(
        "const done = arguments[0]; fetch('https://example.org/').then(() => done('left'), () => done('refused'))"
    )
    driver.execute_script("document.body.append(Object.assign(new Image(), {src: 'https://example.org/x.png'}))")

    assert answer == "refused"
    assert any("Content Security Policy" in entry["message"] for entry in driver.get_log("browser"))


def test_runs_lie_side_by_side_in_one_picture(driver, exploration, tmp_path):
    other = qx.explore(tiny_problem(upper=8), max_evaluations=20, seed=2, algorithm="random", progress=False)
    page = qx.report([exploration, other], tmp_path / "two.html", labels=["guided", "random"])
    opened(driver, page)

    names = driver.execute_script("return byId('front').data.map(t => t.name)")
    assert {"guided", "random"} <= set(names)
    press(driver, "random", "#runs")
    assert driver.execute_script("return run().name") == "random"
    assert [cell.text for cell in driver.find_elements("css selector", "#compare thead th")] == ["", "guided", "random"]


def two_fronts(tmp_path):
    """Of other points each, without a study, at nearly the same scores as the float network."""
    fronts = []
    for points in (3, 5):
        bits = np.repeat(np.arange(2, 9)[:, None], points, axis=1)
        names = tuple(f"p{place}" for place in range(points))
        uniform = qx.Front(
            num_bits=bits, accuracy=np.linspace(0.89, 0.9, 7), costs=bits.sum(1)[:, None] * 1.0, point_names=names
        )
        costs = np.linspace(points * 2, points * 5, 6)[:, None]
        fronts.append(
            qx.Front(
                num_bits=bits[:6],
                accuracy=np.linspace(0.88, 0.901, 6),
                costs=costs,
                point_names=names,
                uniform=uniform,
                float_accuracy=0.9,
            )
        )
    return qx.report(fronts, tmp_path / "two.html", labels=["a front", "a-front"])


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_names_of_uniform_widths_lie_on_nothing_with_two_fronts(driver, tmp_path, size):
    opened(driver, two_fronts(tmp_path), size)
    boxes = driver.execute_script(
        "return [...document.querySelectorAll('#front .annotation-text')].map(t => t.getBoundingClientRect())"
    )
    level = driver.execute_script(
        "const f = byId('front'); const a = f._fullLayout.yaxis;"
        "return f.getBoundingClientRect().top + a._offset + a.d2p(0.9)"
    )
    assert len(boxes) >= 6
    assert not [box for box in boxes if box["top"] + 2 < level < box["bottom"] - 2], "none is struck through"
    for place, one in enumerate(boxes):
        for other in boxes[:place]:
            wide = min(one["right"], other["right"]) - max(one["left"], other["left"])
            tall = min(one["bottom"], other["bottom"]) - max(one["top"], other["top"])
            assert wide <= 2 or tall <= 2, "none lies on another"
    assert "Not alike: a-front against a front: 5 quantization points, not 3" in text(driver, "unlike")
    names = driver.execute_script("return byId('front').data.map(t => t.name)")
    assert {"uniform widths of a front", "uniform widths of a-front"} <= set(names)


def test_fronts_without_a_study_are_downloaded_under_the_names_that_their_lines_read(driver, tmp_path, monkeypatch):
    opened(driver, two_fronts(tmp_path))
    monkeypatch.chdir(driver.downloads)
    for place, name in enumerate(("a-front.json", "a-front-2.json")):
        driver.execute_script(f"showRun({place})")
        press(driver, f"Download {name}", "#apply")
        downloaded(driver, name)
        line = driver.find_element("css selector", "#apply pre").text
        point = eval(line.removesuffix(".apply_to(model)"), {"qx": qx})
        assert len(point.num_bits) == 3 + 2 * place


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_fronts_of_any_size_open(driver, tmp_path, count):
    rng = np.random.default_rng(0)
    front = qx.Front(
        num_bits=rng.integers(2, 9, (count, 20)),
        accuracy=np.linspace(0.5, 0.9, count),
        costs=np.linspace(10, 90, count)[:, None],
        point_names=tuple(f"a.long.name.of.a.layer.{place}.activation" for place in range(20)),
    )
    opened(driver, qx.report(front, tmp_path / "page.html"))

    assert driver.execute_script("return run().num_front") == count
    assert chosen(driver) == (front.knee().index if count else None)


def test_study_without_a_run_opens_and_says_so(driver, tmp_path):
    Store.create(tmp_path / "new.db", {"network": "Tiny"}).close()
    opened(driver, qx.report(tmp_path / "new.db", tmp_path / "page.html"))

    assert "no run in this study" in text(driver, "notices")
    assert driver.find_elements("css selector", ".panel:not([hidden])") == []


def test_formats_and_switched_off_points_are_written_as_python_takes_them(driver, tmp_path):
    front = qx.Front(
        num_bits=np.array([[0, 403, 8]]),
        accuracy=np.array([0.9]),
        costs=np.array([[50.0]]),
        point_names=("a", '"', "c"),
    )
    opened(driver, qx.report(front, tmp_path / "page.html"))
    model = types.SimpleNamespace()
    exec(driver.execute_script("return widthsInPython(0)"), {"model": model})

    assert model.num_bits == {"a": "off", '"': "E4M3", "c": 8}


def test_paper_is_light_and_holds_every_chart(driver, page):
    opened(driver, page, dark=True)
    driver.execute_script("dispatchEvent(new Event('beforeprint'))")
    widths = driver.execute_script("return [...DRAWN].map(id => byId(id)._fullLayout.width)")
    assert driver.execute_script("return document.documentElement.dataset.theme") == "light"
    assert len(widths) == 6
    assert max(widths) <= 700
    driver.execute_script("dispatchEvent(new Event('afterprint'))")
    assert driver.execute_script("return document.documentElement.dataset.theme") == "dark"


def test_a_chart_follows_the_width_of_its_place(page, driver):
    opened(driver, page)
    for width in (800, 390, 800):
        driver.execute_script(f"document.body.style.width = '{width}px'")
        time.sleep(0.5)
        drawn, place, card = driver.execute_script(
            "const f = byId('front'); return [f._fullLayout.width, f.clientWidth, f.closest('.panel').clientWidth]"
        )
        assert abs(drawn - place) <= 1 and place <= card <= width

"""The dashboard in a real browser: what it shows, how it is used, and that it recovers."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

import sona_shm as sona
from tests.browser import DESKTOP, PHONE, Browser, browser_in
from tests.children import end, hear, start
from tests.serving import CONFIG, serving, teach
from tests.test_cli import sona_command

#: Requests of twelve topics; what a model is good at depends on the topic, and large ones cost.
LOAD = """
import time
engine = sona.Engine.attach(name)
topics = np.random.default_rng(1).standard_normal((12, 32))
skill = 0.35 + 0.6 * np.random.default_rng(2).random((12, 5)) ** 0.7
random = np.random.default_rng(int(sys.argv[2]))
say("on")
while True:
    topic = random.integers(12)
    x = topics[topic] + 0.55 * random.standard_normal(32)
    decision = engine.route(x / np.linalg.norm(x))
    time.sleep(0.004)  # the pace of answers; nobody waits for it
    engine.feedback(decision.id, float(random.random() < skill[topic, decision.index]))
    if random.random() < 0.001:
        engine.feedback(decision.id, 1.0)
    if random.random() < 0.001:
        try:
            engine.feedback(decision.id, 1.5)
        except sona.OutOfRangeError:
            pass
"""
LEARN = """
learner = sona.Learner(name)
say("on")
while True:
    learner.step() or learner.wait(0.05)
"""
LIVELY = sona.SonaConfig(
    hidden_dim=32,
    routes=[
        sona.Route("mini", 0.02),
        sona.Route("small", 0.1),
        sona.Route("coder", 0.3),
        sona.Route("large", 0.6),
        sona.Route("reasoner", 1.0),
    ],
    cost_weight=0.2,
    max_workers=8,
)


KEPT = os.environ.get("SONA_SCREENSHOTS")
PICTURES = (
    ("dashboard", DESKTOP, "light"),
    ("dashboard_dark", DESKTOP, "dark"),
    ("dashboard_phone", PHONE, "light"),
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One for all tests: it takes seconds to start."""
    with browser_in(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """As a user finds it."""
    chromium.size(*DESKTOP)
    chromium.prefer(color_scheme="light", reduced_motion="no-preference")
    yield chromium
    chromium.driver.get("about:blank")
    chromium.errors()
    chromium.requested()


@contextmanager
def load(name: str, workers: int = 2) -> Iterator[list[subprocess.Popen[str]]]:
    """A learner, and workers that serve requests; the learner is the first."""
    with ExitStack() as stack:
        started = []
        for code, *arguments in [(LEARN,), *((LOAD, str(i)) for i in range(workers))]:
            started.append(start(code, name, *arguments))
            stack.callback(end, started[-1])
        for process in started:
            assert hear(process) == "on"
        yield started


def open_page(browser: Browser, url: str, status: str = "Learning") -> None:
    browser.driver.get(url)
    browser.await_that(lambda: browser.text("#status") == status)


def drawn(browser: Browser, chart: str) -> int:
    """Pieces of the first line, or area, of a chart."""
    path = f"document.querySelector('[data-chart={chart}] path')?.getAttribute('d') ?? ''"
    return str(browser.run(path)).count("L")


def count(browser: Browser, selector: str) -> int:
    return int(browser.run("document.querySelectorAll(arguments[0]).length", selector))


def follow(mapping: Any, path: str) -> Any:
    for key in path.split("."):
        mapping = mapping[int(key) if isinstance(mapping, list) else key]
    return mapping


def test_figures_are_those_of_sona_stats(browser: Browser, name: str) -> None:
    with sona.Engine.create(name, CONFIG, learner="inline") as engine, serving(name) as server:
        teach(engine, 1234)
        with pytest.raises(sona.OutOfRangeError):
            engine.feedback(1, 1.5)
        engine.feedback(1, 0.5)
        open_page(browser, server.url)
        browser.await_that(lambda: browser.figures()["recorded"][1] == "1,235")
        shown = browser.figures()
        assert browser.errors() == []
        printed = json.loads(sona_command("stats", name, "--json").stdout)
    assert {path: follow(printed, path) for path in shown} == {p: v for p, (v, _) in shown.items()}
    assert len(shown) > 70
    for path, (_, text) in shown.items():
        exact = follow(printed, path)
        if isinstance(exact, int) and "bytes" not in path:
            assert text.replace(",", "") == str(exact), path
    assert shown["errors.0.count"] == (1, "1")
    assert shown["losses.feedback_unknown"] == (1, "1")
    assert {"dropped", "version", "counters.outcomes_learned", "routes.1.mean_reward"} <= set(shown)
    assert {"expert_weights.ridge", "adapter_shift.micro", "lanes.0.recorded"} <= set(shown)
    assert "quality is 1.5, expected a number in [0, 1]" in browser.text("#errors")


def test_figures_and_charts_move_under_load_and_ask_nobody_else(
    browser: Browser, name: str
) -> None:
    sona.Engine.create(name, LIVELY).close()
    with load(name), serving(name) as server:
        browser.requested()
        open_page(browser, server.url)
        seen: set[int] = set()

        def moved() -> bool:
            seen.add(browser.figures()["recorded"][0])
            return len(seen) >= 4

        browser.await_that(moved)
        browser.await_that(lambda: drawn(browser, "reward") >= 3)
        browser.await_that(lambda: drawn(browser, "rates") >= 3)
        assert count(browser, "[data-chart=shares] path") == len(LIVELY.routes)
        browser.await_that(lambda: count(browser, "[data-chart=patterns] circle") >= 3)
        assert browser.errors() == []
        hosts = {urlsplit(url).netloc for url in browser.requested()}
    assert hosts == {urlsplit(server.url).netloc}


def test_a_narrow_screen_scrolls_only_down(browser: Browser, name: str) -> None:
    browser.size(*PHONE)
    routes = [sona.Route("a-model-with-a-name-that-is-as-long-as-names-are"), sona.Route("b")]
    config = sona.SonaConfig(hidden_dim=8, routes=routes)
    with sona.Engine.create(name, config, learner="inline") as engine, serving(name) as server:
        teach(engine, 100)
        with pytest.raises(sona.SonaError):
            engine.observe([0.1] * 8, "no-such-route-" + "x" * 100, 0.5)
        open_page(browser, server.url)
        browser.await_that(lambda: browser.figures()["recorded"][0] == 100)
        width = "document.documentElement.scrollWidth"
        assert browser.run(width) == browser.run("innerWidth") == PHONE[0]
        browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert browser.run(width) == PHONE[0]


def test_names_and_errors_of_others_are_only_text(browser: Browser, name: str) -> None:
    routes = ("<img src=x onerror=document.body.remove()>", "a\u202eevil", "esc\x1b[31m\nline")
    shown = [routes[0], "a?evil", "esc?[31m?line"]
    config = sona.SonaConfig(hidden_dim=8, routes=[sona.Route(route, 0.009) for route in routes])
    with sona.Engine.create(name, config, learner="inline") as engine, serving(name) as server:
        teach(engine, 100)
        with pytest.raises(sona.SonaError):
            engine.observe([0.1] * 8, "\u202e<b>bold</b>", 0.5)
        open_page(browser, server.url)
        browser.await_that(lambda: drawn(browser, "shares"))
        browser.await_that(lambda: browser.text("#errors"))
        cells = "[...document.querySelectorAll('#routes td:first-child')].map((n) => n.textContent)"
        assert browser.run(cells) == shown
        assert all(route in browser.text("[data-chart=shares] .key") for route in shown)
        assert "<b>bold</b>" in browser.text("#errors")
        assert "\u202e" not in browser.text("body")
        assert count(browser, "main img, main b:not(.key b)") == 0
        assert browser.figures()["routes.0.cost"][1] == "0.009"
        assert browser.errors() == []


def test_everything_is_reached_by_keyboard_and_shows_where_it_is(
    browser: Browser, name: str
) -> None:
    with sona.Engine.create(name, CONFIG, learner="inline") as engine, serving(name) as server:
        teach(engine, 400)
        open_page(browser, server.url)
        browser.await_that(lambda: count(browser, "circle.point"))
        reached: list[str] = []
        for _ in range(40):
            ActionChains(browser.driver).send_keys(Keys.TAB).perform()
            where = browser.run(
                "(document.activeElement.name || document.activeElement.closest('figure')"
                "?.dataset.chart || document.activeElement.getAttribute('aria-label')"
                "|| document.activeElement.textContent)"
            )
            reached.append(where)
            visible = browser.run(
                "(() => { const at = document.activeElement; "
                "if (at === document.body) return true; "
                "const looked = at.name === 'window' ? at.nextElementSibling : at; "
                "const style = getComputedStyle(looked); "
                "return at.closest('svg') ? at.classList.contains('chosen') "
                ": style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2; })()"
            )
            assert visible, where
        order = list(dict.fromkeys(reached))
        wanted = ["Skip to the figures", "window", "reward", "shares", "Routes, table", "rates"]
        wanted += ["patterns", "Lanes, table", "Errors, table", "losses", "Losses, table"]
        assert [where for where in order if where in wanted] == wanted

        browser.run("document.querySelector('[name=window]').focus()")
        ActionChains(browser.driver).send_keys(Keys.ARROW_RIGHT).perform()
        assert browser.run("document.querySelector('[name=window]:checked').value") == "3600"
        browser.run("document.querySelector('[data-chart=rates] .chart').focus()")
        ActionChains(browser.driver).send_keys(Keys.ARROW_LEFT).perform()
        assert "recorded" in browser.text("[data-chart=rates] [aria-live]")
        browser.run("document.querySelector('circle.point[tabindex=\"0\"]').focus()")
        first = browser.text("[data-chart=patterns] .detail")
        ActionChains(browser.driver).send_keys(Keys.ARROW_RIGHT).perform()
        second = browser.text("[data-chart=patterns] .detail")
        assert first.startswith("Pattern ")
        assert second.startswith("Pattern ")
        assert first != second


def test_charts_have_words_and_tables(browser: Browser, name: str) -> None:
    with sona.Engine.create(name, CONFIG, learner="inline") as engine, serving(name) as server:
        teach(engine, 400)
        open_page(browser, server.url)
        image = "document.querySelector('[data-chart=shares] svg')?.ariaLabel ?? ''"
        browser.await_that(lambda: "b: " in browser.run(image))
        assert browser.run(image).startswith("Share of each route. a: ")
        for chart in ("reward", "shares", "rates", "losses", "patterns"):
            browser.run(f"document.querySelector('[data-chart={chart}] details').open = true")
        tables = "figure details[open]"
        browser.await_that(lambda: count(browser, f"{tables}:has(tbody tr)") == 5)


def test_colours_and_motion_are_as_the_user_prefers(browser: Browser, name: str) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    motion = "getComputedStyle(document.querySelector('#status'), '::before').animationName"
    with sona.Engine.create(name, CONFIG, learner="inline"), serving(name) as server:
        open_page(browser, server.url)
        assert browser.run(background) == "rgb(245, 246, 248)"
        assert browser.run(motion) == "breathe"
        browser.prefer(color_scheme="dark", reduced_motion="reduce")
        assert browser.run(background) == "rgb(14, 18, 22)"
        assert browser.run(motion) == "none"


def test_a_dead_learner_is_told(browser: Browser, name: str) -> None:
    sona.Engine.create(name, LIVELY).close()
    with serving(name) as server:
        open_page(browser, server.url, "No learner yet")
        with load(name) as (learner, *_):
            browser.await_that(lambda: browser.text("#status") == "Learning")
            assert browser.run("document.querySelector('#banner').hidden")
            end(learner)
            browser.await_that(lambda: browser.text("#status") == "Learner dead")
            assert f"Start one: sona learner {name}" in browser.text("#banner")
            told = browser.text("#banner")
            browser.await_that(lambda: browser.text("#backlog") != "0 B")
            waiting = browser.text("#backlog")
            browser.await_that(lambda: browser.text("#backlog") != waiting)
            assert browser.text("#banner") == told
        sona.Engine.destroy(name)
        browser.await_that(lambda: browser.text("#status") == "No engine")
        assert f"No engine '{name}' on this host" in browser.text("#banner")


def test_the_page_recovers_when_the_server_is_back(browser: Browser, name: str) -> None:
    with sona.Engine.create(name, CONFIG, learner="inline") as engine:
        with serving(name) as server:
            open_page(browser, server.url)
            assert browser.errors() == []
            server.stop()
            browser.await_that(lambda: browser.text("#status") == "Connection lost, retrying")
        teach(engine, 321)
        with serving(name, "--port", str(server.port)):
            browser.await_that(lambda: browser.text("#status") == "Learning")
            browser.await_that(lambda: browser.figures()["recorded"][0] == 321)


@pytest.fixture
def pictured(name: str) -> Iterator[str]:
    """The engine in the pictures; one that people may read has a name that they can read."""
    engine = "router" if KEPT else name
    sona.Engine.create(engine, LIVELY).close()
    yield engine
    sona.Engine.destroy(engine)


def test_screenshots(browser: Browser, pictured: str, tmp_path: Path) -> None:
    """For people to look at, in $SONA_SCREENSHOTS if that is set: then they show a minute."""
    directory, points = (Path(KEPT), 60) if KEPT else (tmp_path, 5)
    directory.mkdir(parents=True, exist_ok=True)
    with load(pictured, workers=3), serving(pictured) as server:
        open_page(browser, server.url)
        browser.await_that(lambda: drawn(browser, "reward") > 0)
        while (before := drawn(browser, "reward")) < points:
            browser.await_that(lambda: drawn(browser, "reward") > before)
        for title, size, colours in PICTURES:
            browser.size(*size)
            browser.prefer(color_scheme=colours)
            browser.await_width(size[0])
            path = directory / f"{title}.png"
            browser.screenshot(path)
            print(f"screenshot: {path}")
            assert 10_000 < path.stat().st_size < 200_000
        assert browser.errors() == []

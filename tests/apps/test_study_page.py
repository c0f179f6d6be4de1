"""Raters at the page of a study, in a headless Chromium, and what their votes come to."""

import json
import re
import shutil
import sqlite3

import numpy as np
import pytest
import studies
from serving import serving

from unity.apps.study.design import RUINED
from unity.apps.study.make import make
from unity.apps.study.options import Options, start
from unity.apps.study.serve import application

api = pytest.importorskip("playwright.sync_api", reason="the pages' tests need: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="the pages' tests need a browser: apt-get install chromium"),
]
expect = api.expect
expect.set_options(timeout=30_000)
QUESTIONS = 3


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study that is served: two comparisons and a check for each rater; its folder and client."""
    root = tmp_path_factory.mktemp("study")
    make(studies.options(root, asks=2, checks=1, missed=0))
    with serving(application(Options(out=root / "study"))) as client:
        yield root / "study", client


@pytest.fixture
def page(browser, study):
    """A rater's browser of its own; whatever goes wrong inside it, or is asked of another host, fails the test."""
    _, client = study
    context = browser.new_context(base_url=client.address, viewport={"width": 1280, "height": 900})
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: asked.url.startswith((client.address, "data:")) or wrong.append(asked.url))
    page.on("console", lambda line: wrong.append(line.text) if "Content Security Policy" in line.text else None)
    yield page
    context.close()
    assert not wrong


def seen(page, place: int) -> np.ndarray:
    """What the browser shows of a video: mean brightness of rows and columns of blocks."""
    code = """video => { const c = document.createElement('canvas'); [c.width, c.height] = [24, 16];
        const d = c.getContext('2d'); d.drawImage(video, 0, 0, 24, 16);
        return [...d.getImageData(0, 0, 24, 16).data].filter((_, i) => i % 4 === 0); }"""
    return np.array(page.locator("video").nth(place).evaluate(code))


def models(study, page) -> list[int]:
    """Which models the page shows, by the ballot: the page itself does not tell."""
    with sqlite3.connect(study[0] / "study.sqlite") as base:
        ids = page.locator("video").evaluate_all("all => all.map((one) => one.src.split('/').pop())")
        return [base.execute("select model from videos where id = ?", (name,)).fetchone()[0] for name in ids]


def choose(page, place: int | None) -> None:
    label = "None is better" if place is None else "AB"[place]
    for group in page.get_by_role("group").all():
        group.get_by_text(label, exact=True).click()


def test_a_rater_votes_leaves_and_goes_on_elsewhere(browser, page, study):
    page.goto("/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Which video is better?")
    page.get_by_role("button", name="Begin").click()
    expect(page.locator("video")).to_have_count(2)
    # nothing can be said of what was not seen
    assert page.locator("form button.main").is_disabled()
    expect(page.get_by_role("button", name="Answer all questions")).to_be_visible()
    assert page.locator("form button.main").is_disabled()
    shown, words = models(study, page), page.locator(".prompt p").inner_text()
    clip = int(words[-1])
    for place, model in enumerate(shown):
        if model != RUINED:
            assert abs(seen(page, place).mean() - studies.grey(model, clip)) < 6
    choose(page, 0)
    page.get_by_role("button", name="Next").click()
    expect(page.locator("small", has_text="1 of 3")).to_be_visible()
    code = page.url.partition("#")[2]
    assert re.fullmatch("[0-9a-f]{12}", code)
    # the same browser, and another one, by the address
    page.goto("about:blank")
    page.goto("/")
    expect(page.locator("small", has_text="1 of 3")).to_be_visible()
    second = page.locator("video").first.get_attribute("src")
    other = browser.new_page(base_url=study[1].address)
    other.goto("/")
    other.get_by_label("your code").fill(code)
    other.get_by_role("button", name="Go on").click()
    expect(other.locator("video").first).to_have_attribute("src", second)
    other.context.close()
    with sqlite3.connect(study[0] / "study.sqlite") as base:
        votes = base.execute("select question, choice from votes where place = 0").fetchall()
    assert sorted(votes) == [("overall", 0), ("physical", 0), ("semantic", 0)]


def test_raters_who_prefer_the_bright_one_rank_the_models(browser, study):
    """By looking at the pixels alone."""
    for _ in range(4):
        page = browser.new_page(base_url=study[1].address)
        page.goto("/")
        page.get_by_role("button", name="Begin").click()
        for done in range(3):
            expect(page.locator("small", has_text=f"{done} of 3")).to_be_visible()
            expect(page.get_by_role("button", name="Answer all questions")).to_be_visible()
            shown = models(study, page)
            bright = int(
                np.argmax([-1 if m == RUINED else seen(page, place).mean() for place, m in enumerate(shown)])
            )
            choose(page, bright)
            page.get_by_role("button", name="Next").click()
        expect(page.get_by_role("heading", name="Thank you")).to_be_visible()
        page.context.close()
    start(Options(out=study[0], report=True))
    found = json.loads((study[0] / "study.json").read_text())
    for question in found["questions"].values():
        assert [row["model"] for row in question["standings"]] == list(reversed(studies.MODELS))
    assert sum(rater["counts"] for rater in found["raters"]["voted"]) >= 4


def test_the_invited_come_by_an_address_of_their_own(browser, tmp_path):
    make(studies.options(tmp_path, invite=2))
    codes = (tmp_path / "study/invitations.txt").read_text().split()
    assert len(set(codes)) == 2
    with serving(application(Options(out=tmp_path / "study", token="a-secret"))) as client:
        page = browser.new_page(base_url=client.address)
        assert page.goto(f"/{codes[0]}").status == 401
        page.goto(f"/?token=a-secret{codes[0]}")
        expect(page.locator("video")).to_have_count(2)
        page.evaluate("localStorage.clear()")
        page.goto("about:blank")
        page.goto("/")
        expect(page.get_by_text("You need the code that you were sent")).to_be_visible()
        expect(page.get_by_role("button", name="Begin")).to_have_count(0)
        page.context.close()


def test_keys_phones_and_wrong_codes(page, study):
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto("/#0123456789ab")
    expect(page.get_by_role("alert")).to_contain_text("The code 0123456789ab does not work")
    page.get_by_role("button", name="Begin").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Answer all questions")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    controls = page.locator("input, button:visible, a:visible, video")
    nameless = controls.evaluate_all("""all => all.map((one) =>
        one.labels?.length || one.ariaLabel || one.textContent.trim() ? '' : one.outerHTML).filter(Boolean)""")
    assert nameless == []
    page.get_by_role("radio").first.focus()
    for _ in range(QUESTIONS):
        page.keyboard.press("Space")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Next")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("small", has_text="1 of 3")).to_be_visible()

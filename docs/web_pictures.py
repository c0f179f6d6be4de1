"""The guide's pictures of the page: `python docs/web_pictures.py` writes docs/web.png and docs/web_pages.png.

Needs `pip install '.[dev]'` and a Chromium (`apt-get install chromium`); some minutes on two cores. Everything in
them is the shipped model's own: no result is prepared.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from unity.modality.table import MODALITIES

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
WIDTH, HEIGHT, SEED = 1280, 860, 2_002_000


@contextmanager
def server(folder: Path, *words: str) -> Iterator[str]:
    """The page on a free port; its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "unity.apps.web", "--port", "0", "--out", str(folder), *words],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[1].rstrip("/")
    finally:
        process.terminate()
        process.wait()


def call(address: str, **ask: object) -> dict:
    """GET an address of the API, or POST what is asked."""
    body = json.dumps(ask).encode() if ask else None
    request = urllib.request.Request(address, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def run(api: str, **ask: object) -> str:
    """A job that is done; its id."""
    job = call(f"{api}/jobs", **ask)
    while job["ended"] is None:
        time.sleep(1)
        job = call(f"{api}/jobs/{job['id']}")
    assert job["state"] == "done", job["error"]
    return job["id"]


def jobs(api: str, steps: int) -> dict[str, str]:
    """What the pictures show: a simulated scene in all views, a film, and a video from words."""
    model = call(f"{api}/options")["models"][0]
    scene = {"frames": model["frames"]["default"], "size": model["size"]["default"][0]}
    made = call(f"{api}/inputs/simulated", source="two_persons", seed=SEED, **scene)["id"]
    common = {"steps": steps, "guidance": 1.0}
    return {
        "words": run(api, task="joint", modalities=["depth"], prompt="a man walks in a park", **common),
        "film": run(api, task="estimate", modalities=["depth", "flow"], input="people", **common),
        "segmentation": run(api, task="estimate", modalities=["segmentation"], input=made, **common),
        "few": run(api, task="estimate", modalities=["depth"], input=made, steps=2, guidance=1.0),
        "scene": run(api, task="estimate", modalities=list(MODALITIES), input=made, **common),
    }


def settle(page: Page, path: str) -> None:
    page.goto(path)
    page.locator(".stage canvas, .tile").first.wait_for()
    page.wait_for_timeout(1500)


def stop(page: Page, frame: int) -> None:
    page.get_by_role("button", name="Pause").first.click()
    page.get_by_label("frame", exact=True).first.fill(str(frame))


def shoot(page: Page, done: dict[str, str]) -> list[Path]:
    """Pictures of the pages, in the order that they are shown in."""
    shots = []

    def keep(name: str) -> None:
        shots.append(FOLDER / f".{name}.png")
        page.screenshot(path=shots[-1])

    settle(page, f"/jobs/{done['scene']}")
    stop(page, 8)
    keep("scene")
    settle(page, "/")
    keep("try")
    settle(page, f"/compare?a={done['few']}&b={done['scene']}")
    stop(page, 8)
    keep("compare")
    settle(page, f"/jobs/{done['scene']}")
    page.get_by_role("button", name="3-D").click()
    page.get_by_role("button", name="Pause").first.click()
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(500)
    keep("cloud")
    return shots


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20, help="sampling steps of the jobs that are shown")
    steps = parser.parse_args().steps
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with (
        tempfile.TemporaryDirectory() as scratch,
        server(Path(scratch)) as address,
        sync_playwright() as playwright,
    ):
        done = jobs(f"{address}/api", steps)
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(base_url=address, viewport={"width": WIDTH, "height": HEIGHT})
        shots = shoot(page, done)
        browser.close()
    pictures = [Image.open(path).convert("RGB") for path in shots]
    for path in shots:
        path.unlink()
    pictures[0].quantize(256).save(FOLDER / "web.png", optimize=True)
    gap = 12
    sheet = Image.new("RGB", (WIDTH, 3 * HEIGHT + 2 * gap), "white")
    for place, picture in enumerate(pictures[1:]):
        sheet.paste(picture, (0, place * (HEIGHT + gap)))
    sheet.quantize(256).save(FOLDER / "web_pages.png", optimize=True)


if __name__ == "__main__":
    main()

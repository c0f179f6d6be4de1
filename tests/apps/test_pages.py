"""The pages as people use them, in a headless Chromium. The model obeys its prompt, see stub_worker.py."""

import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import stub_worker

from unity.data.clips import Clip
from unity.data.shards import write_shards

api = pytest.importorskip("playwright.sync_api", reason="the pages' tests need: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="the pages' tests need a browser: apt-get install chromium, or any Chrome on the PATH"
)
expect = api.expect
# a shared machine may be slow to answer, and a page that does not is found out all the same
expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def browser():
    # a sandbox of its own is not to be had inside containers; WebGL is computed on the CPU
    flags = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    # a camera that shows a clock
    flags += ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield found
        found.close()


@pytest.fixture
def page(browser, client):
    """A page of the server; whatever goes wrong inside it, or is asked of another host, fails the test."""
    context = browser.new_context(base_url=client.address, viewport={"width": 1300, "height": 900})
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda request: request.url.startswith((client.address, "blob:", "data:")) or wrong.append(request.url),
    )
    page.on("console", lambda line: wrong.append(line.text) if "Content Security Policy" in line.text else None)
    yield page
    context.close()
    assert not wrong


def result(client, **ask) -> dict:
    return client.wait(
        client.post(
            "/api/jobs", {"task": "estimate", "modalities": ["depth"], "input": "people", "steps": 2} | ask
        )
    )


def grey(page, x: float, y: float) -> int:
    """The red channel of the player's canvas at a share of its width and height."""
    code = """([x, y]) => { const c = document.querySelector('.stage canvas');
        return c.getContext('2d').getImageData(x * c.width, y * c.height, 1, 1).data[0]; }"""
    return page.evaluate(code, [x, y])


def test_a_video_is_sent_and_estimated(page, client, film):
    page.goto("/")
    page.locator("input[type=file]").set_input_files(film)
    expect(page.locator("#chosen")).to_contain_text("film.mp4, 11 frames of 96×64")
    page.get_by_text("flow", exact=True).click()
    page.get_by_role("button", name="Estimate").click()
    expect(page.locator("#message")).to_contain_text("is in the queue")
    tile = page.locator(".tile", has_text="Estimate depth, flow")
    expect(tile).to_be_visible()
    newest = client.get("/api/jobs?most=1")[0]
    assert newest["ask"]["modalities"] == ["depth", "flow"] and newest["ask"]["input"] != "people"
    tile.get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Estimate depth, flow")
    expect(page.locator("pre").first).to_contain_text("python -m unity.infer --modality depth --video")


def test_progress_preview_and_cancel(page, client):
    job = client.post("/api/jobs", {"task": "joint", "modalities": ["depth"], "prompt": "wait", "steps": 200})
    page.goto(f"/jobs/{job['id']}")
    expect(page.locator("#progress p")).to_contain_text(re.compile(r"step \d+ of 200, about \d+ s left"))
    expect(page.locator("#progress canvas")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("main")).to_contain_text("The job was cancelled")


def test_a_failure_is_a_red_sentence_and_the_page_lives(page, client):
    page.goto("/")
    page.get_by_text("Joint", exact=True).click()
    page.get_by_label("Prompt").fill("crash")
    page.get_by_role("button", name="Generate").click()
    tile = page.locator(".tile.failed", has_text="crash")
    expect(tile).to_contain_text("the model program ended (signal 6)")
    page.get_by_label("Prompt").fill("a ball")
    page.get_by_label("Prompt").press("Control+Enter")
    expect(page.locator(".tile.done", has_text="a ball")).to_be_visible()


def test_the_player_steps_divides_overlays_and_tells_values(page, client):
    job = result(client)
    page.goto(f"/jobs/{job['id']}")
    canvas = page.locator(".stage canvas").first
    expect(canvas).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    canvas.press("Home")
    expect(page.locator("output")).to_have_text("frame 1 of 5")
    for frame, (rgb, aux) in enumerate(zip(*stub_worker.GREYS, strict=True)):
        assert abs(grey(page, 0.25, 0.7) - rgb) < 5 and abs(grey(page, 0.75, 0.7) - aux) < 5, frame
        canvas.press("ArrowRight")
    expect(page.locator("output")).to_have_text("frame 1 of 5")
    page.get_by_role("button", name="Divider").click()
    assert abs(grey(page, 0.2, 0.7) - 0) < 5 and abs(grey(page, 0.8, 0.7) - 250) < 5
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.7)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.7)
    page.mouse.up()
    assert abs(grey(page, 0.8, 0.7) - 0) < 5
    page.get_by_role("button", name="Overlay").click()
    page.get_by_label("divider or opacity").fill("50")
    assert abs(grey(page, 0.5, 0.7) - 125) < 6
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    _, height, width = stub_worker.SHAPE
    told = page.locator(".value")
    expect(told).to_contain_text("depth")
    x, y, depth = map(
        float, re.search(r"\((\d+), (\d+)\): depth ([\d.]+) × the nearest", told.inner_text()).groups()
    )
    assert depth == 1 + y * width + x and y < height


def test_depth_is_a_cloud_of_points(page, client):
    page.goto(f"/jobs/{result(client)['id']}")
    page.get_by_role("button", name="3-D").click()
    seen = """() => {
        const canvas = document.querySelector('canvas[aria-label^="point cloud"]');
        const [gl, { width, height }] = [canvas.getContext('webgl2'), canvas];
        const pixels = new Uint8Array(4 * width * height);
        gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
        return new Set(pixels.filter((_, place) => place % 4 === 0)).size; }"""
    page.get_by_role("button", name="Pause").click()
    cloud = page.get_by_label("point cloud")
    expect(cloud).to_be_visible()
    cloud.press("ArrowRight")
    assert page.evaluate(seen) > 1


@pytest.mark.slow
def test_reloading_and_a_second_tab_show_the_same(page, client):
    job = result(client, seed=11)
    page.goto("/")
    expect(page.locator(f".tile a[href='/jobs/{job['id']}']")).to_be_visible()
    other = page.context.new_page()
    other.goto("/")
    page.get_by_text("Joint", exact=True).click()
    page.get_by_label("Prompt").fill("two tabs")
    page.get_by_role("button", name="Generate").click()
    expect(other.locator(".tile", has_text="two tabs")).to_be_visible()
    page.reload()
    expect(page.locator(".tile", has_text="two tabs")).to_be_visible()


@pytest.mark.slow
def test_settings_can_be_taken_from_an_earlier_job(page, client):
    job = result(client, seed=12, steps=3, modalities=["flow"])
    page.goto(f"/jobs/{job['id']}")
    page.get_by_role("link", name="Change and run again").click()
    expect(page.get_by_label("Seed")).to_have_value("12")
    expect(page.get_by_label("Steps")).to_have_value("3")
    assert page.locator("#modalities :checked").evaluate_all("all => all.map((one) => one.value)") == ["flow"]


@pytest.mark.slow
def test_two_jobs_are_compared(page, client):
    a, b = result(client, seed=21), result(client, seed=22)
    page.goto(f"/compare?a={a['id']}&b={b['id']}")
    expect(page.locator(".stage canvas")).to_have_count(2)
    differing = page.locator("tr.differs")
    expect(differing).to_have_count(1)
    expect(differing).to_contain_text("seed2122differs")
    page.get_by_role("button", name="Pause").first.click()
    page.locator(".stage canvas").first.press("End")
    expect(page.locator("output").nth(1)).to_have_text("frame 5 of 5")


@pytest.mark.parametrize(
    "data, words",
    [(b"no video at all", "cannot read notes.mp4"), (b"\0" * 1_200_000, "more than 1; cut it shorter")],
)
def test_a_bad_file_is_a_sentence(page, data, words):
    page.goto("/")
    page.locator("input[type=file]").set_input_files(
        {"name": "notes.mp4", "mimeType": "video/mp4", "buffer": data}
    )
    expect(page.locator("#source-message [role=alert]")).to_contain_text(words)


@pytest.mark.slow
def test_the_camera_is_recorded(page, client):
    page.goto("/")
    page.get_by_role("button", name="Record").click()
    expect(page.locator("#source-message")).to_contain_text("Recording")
    page.wait_for_timeout(800)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#chosen")).to_contain_text("camera recording")
    expect(page.get_by_role("button", name="Record")).to_be_visible()


def test_the_token_is_asked_for_once(browser, serve_stub, tmp_path):
    with serve_stub(tmp_path, token="a-secret") as client:
        page = browser.new_page(base_url=client.address)
        assert page.goto("/").status == 401
        page.goto("/?token=a-secret")
        expect(page).to_have_url(f"{client.address}/")
        expect(page.get_by_role("heading", name="Try the model")).to_be_visible()
        assert page.goto("/compare").status == 200
        page.context.close()


@pytest.mark.parametrize(
    "path", ["/", "/jobs/{id}", *(pytest.param(path, marks=pytest.mark.slow) for path in ("/compare", "/api"))]
)
def test_pages_fit_a_phone_and_name_their_controls(page, client, path):
    job = result(client)
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(path.format(id=job["id"]))
    expect(page.locator("main h1")).to_be_visible()
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    controls = page.locator("input:visible, select:visible, textarea:visible, button:visible, a:visible")
    nameless = controls.evaluate_all("""all => all.map((one) =>
        one.labels?.length || one.ariaLabel || one.textContent.trim() ? '' : one.outerHTML).filter(Boolean)""")
    assert nameless == []


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio of two colours, as browsers write them."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_words_stand_out(page):
    page.goto("/api")
    pairs = [("--ink", "--card"), ("--soft", "--card"), ("--soft", "--paper"), ("--on-accent", "--accent")]
    pairs += [("--bad", "--bad-fill"), ("--bad", "--card"), ("--good", "--fill"), ("--ink", "--mark")]
    code = (
        """name => { document.body.style.color = `var(${name})`; return getComputedStyle(document.body).color; }"""
    )
    for scheme, (one, other) in itertools.product(("light", "dark"), pairs):
        page.emulate_media(color_scheme=scheme)
        assert contrast(page.evaluate(code, one), page.evaluate(code, other)) >= 4.5, (scheme, one, other)


@pytest.mark.slow
def test_the_description_of_the_api_is_shown(page, client):
    page.goto("/api")
    for path in client.get("/openapi.json")["paths"]:
        expect(page.locator("h2 code", has_text=path).first).to_be_visible()


@pytest.fixture(scope="module")
def watched(serve_stub, tmp_path_factory):
    """A server that watches a run and shows a dataset; its client, and the metrics of the run."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "run").mkdir()
    metrics = folder / "run" / "metrics.jsonl"
    metrics.write_text("".join(line(step) for step in range(20)))
    draw = np.random.default_rng(0)
    video = {stream: draw.integers(0, 255, (5, 16, 24, 3), np.uint8) for stream in ("rgb", "depth")}
    clips = [Clip(name=f"clip {i}", source="general", caption="a ball", fps=8.0, video=video) for i in range(3)]
    with serve_stub(folder / "web", run=(folder / "run",), data=(write_shards(clips, folder / "data"),)) as client:
        yield client, metrics


def line(step: int) -> str:
    return json.dumps({"step": step, "loss": 1 / (1 + step), "loss/joint": 0.5, "loss/depth": 0.25}) + "\n"


def test_a_run_is_watched_as_it_goes(browser, watched):
    client, metrics = watched
    page = browser.new_page(base_url=client.address)
    page.goto("/training")
    expect(page.get_by_role("status")).to_have_text("step 20")
    for panel in ("joint 0.5", "depth 0.25"):
        expect(page.locator(".chart", has_text=panel)).to_be_visible()
    with metrics.open("a") as file:
        file.write(line(20))
    expect(page.get_by_role("status")).to_have_text("step 21")
    page.close()


def test_a_dataset_is_looked_through_by_keys(browser, watched):
    client, _ = watched
    page = browser.new_page(base_url=client.address)
    page.goto("/dataset")
    expect(page.locator("h2", has_text="clip 0")).to_be_visible()
    expect(page.locator(".stage canvas")).to_be_visible()
    page.keyboard.press("j")
    expect(page.locator("h2", has_text="clip 1")).to_be_visible()
    page.keyboard.press("f")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the flagged").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0] == "dataset,source,index" and len(lines) == 2 and lines[1].endswith(',"general","1"')
    page.close()

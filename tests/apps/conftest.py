"""Servers of the page, as tests need them."""

import sys
from pathlib import Path

import numpy as np
import pytest

# processes that are started anew find the stub by this, too
sys.path.insert(0, str(Path(__file__).parent))

import stub_worker
from serving import serving

from unity.apps.web import runner
from unity.apps.web.options import Options
from unity.apps.web.serve import application
from unity.data.video import write_video


@pytest.fixture(scope="session")
def serve_stub():
    """serve_stub(folder, **options): a server whose model obeys its prompt, as a context."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "work", stub_worker.work)
        yield lambda folder, **options: serving(application(Options(out=folder, models=(), **options)))


@pytest.fixture(scope="module")
def client_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("web")


@pytest.fixture(scope="module")
def client(serve_stub, client_folder):
    with serve_stub(client_folder, most_megabytes=1, most_frames=100, most_pixels=640 * 480) as found:
        yield found


@pytest.fixture(scope="module")
def done(client) -> dict:
    """A job that is done."""
    ask = {"task": "estimate", "modalities": ["depth"], "input": "people", "steps": 2}
    return client.wait(client.post("/api/jobs", ask))


@pytest.fixture(scope="session")
def film(tmp_path_factory) -> Path:
    """A video of 11 frames at 10 a second."""
    y, x = np.mgrid[:64, :96]
    frames = np.stack([np.stack([2 * x, 3 * y, 0 * x + 20 * t], -1) for t in range(11)]).astype(np.uint8)
    return write_video(frames, tmp_path_factory.mktemp("film") / "film.mp4", fps=10)

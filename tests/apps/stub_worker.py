"""The process that computes with a model that obeys its prompt, so that the page's own part is tested in no time.

"crash", "fail", "hang" (deaf to cancelling) and "wait" (until it is cancelled) do what they say.
"""

import os
import sys
import time
from types import SimpleNamespace

import numpy as np

from unity.apps.web.worker import work as real_work
from unity.data.video import write_video
from unity.modality.depth import save
from unity.results import Results

SHAPE = (5, 16, 24)
# of a frame and of its modality
GREYS = [40 * t for t in range(SHAPE[0])], [250 - 40 * t for t in range(SHAPE[0])]


def video(greys):
    return np.broadcast_to(np.array(greys, np.uint8).reshape(-1, 1, 1, 1), (*SHAPE, 3))


def answer(request, generator, tell, watch):
    tell("the model that obeys its prompt")
    frames, aux = map(video, GREYS)
    words = request.prompt or ""
    for step in range(1, request.steps + 1):
        watch(step, lambda: {"rgb": frames, request.modality: aux})
        if words == "crash":
            os.abort()
        if words == "fail":
            raise ValueError("the model does not like it; ask for something else")
        while words == "hang":
            time.sleep(0.05)
        if words == "wait":
            time.sleep(0.02)
    record = {"modality": request.modality, "seed": request.seed, "frames": SHAPE[0], "fps": 8, "size": SHAPE[1:]}
    record |= {"task": "estimate" if request.video else "joint", "model": {"step": 7}, "device": "cpu"}
    record |= {"precision": "float32", "source": None}
    with Results(request.out, "unity.infer", "run.json").writing(record) as folder:
        write_video(frames, folder / "rgb.mp4", 8)
        write_video(aux, folder / f"{request.modality}.mp4", 8)
        if request.modality == "depth":
            save(np.arange(1, 1 + np.prod(SHAPE), dtype=np.float32).reshape(SHAPE), folder / "depth", 8)


def work(pipe, cancel):
    sys.modules["unity.answer"] = SimpleNamespace(answer=answer)
    sys.modules["unity.generate"] = SimpleNamespace(load_generator=lambda *_, **__: None)
    real_work(pipe, cancel)

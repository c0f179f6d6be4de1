"""A dataset's card: its numbers counted by hand, and views that lie where they are."""

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib", reason="extra report")

from unity.data.buckets import join
from unity.data.card.facts import facts_of
from unity.data.card.pictures import _drawn
from unity.data.card.write import write_card
from unity.data.clips import Clip
from unity.data.shards import write_shards
from unity.modality.table import MODALITIES

DIS = {"name": "dis", "versions": {"opencv": "5"}, "settings": {}, "kept": True}


def _clip(number, source, views, shape=(5, 16, 24)):
    random = np.random.default_rng(number)
    row, size = MODALITIES["segmentation"], shape[1:]
    labels = np.zeros(shape, np.uint8)
    labels[:, 4:8, 4:8] = 1
    video = {name: random.integers(0, 256, (*shape, 3)).astype(np.uint8) for name in ("rgb", *views)}
    if "segmentation" in views:
        video["segmentation"] = row.encode(labels, row.constants(labels, size))
    meta = {"annotators": {"flow": DIS} if "flow" in views else {}}
    return Clip(name=f"c{number}", source=source, caption="", fps=10.0, video=video, meta=meta)


@pytest.mark.slow
def test_a_card_counts_what_is_there_and_what_is_not(tmp_path):
    wide = [_clip(0, "general", ("flow", "segmentation")), _clip(1, "general", ()), _clip(2, "subject", ("flow",))]
    write_shards(wide, tmp_path / "wide")
    write_shards([_clip(3, "subject", ("flow",), (9, 16, 16))], tmp_path / "short")
    lines = [
        {"clip": "x", "annotators": {}, "fault": "x.mp4 is no film"},
        {"clip": "y", "annotators": {"flow": DIS | {"kept": False, "why": "it jumps (by 3)"}}, "fault": None},
        {"clip": "z", "annotators": {"flow": DIS | {"kept": False, "why": "it jumps (by 4)"}}, "fault": None},
        {"clip": "ok", "annotators": {"flow": DIS}, "fault": None},
    ]
    (tmp_path / "wide/annotations.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "short/refused.csv").write_text("csv,line,reason\na.csv,3,no video\n")
    join([tmp_path / "wide", tmp_path / "short"], tmp_path / "all")
    card, plots, strip = write_card(tmp_path / "all")
    facts, _ = facts_of(tmp_path / "all")
    assert facts.clips == 4 and facts.hours == pytest.approx((3 * 0.5 + 0.9) / 3600)
    views = {(p.bucket, p.source): (p.clips, p.views["flow"], p.views["segmentation"]) for p in facts.parts}
    assert views == {
        ("5 × 16 × 24", "general"): (2, 1, 1),
        ("5 × 16 × 24", "subject"): (1, 1, 0),
        ("9 × 16 × 16", "subject"): (1, 1, 0),
    }
    found = {(row.what, row.why): (row.count, row.example) for row in facts.left_out}
    assert found == {
        ("flow by dis", "it jumps"): (2, "y: it jumps (by 3)"),
        ("clip", ""): (1, "x.mp4 is no film"),
        ("row", ""): (1, "a.csv, line 3: no video"),
    }
    text = card.read_text()
    assert (
        "| all |  |  | 4 | 2.4 seconds | 0 | 3 | 0 | 0 | 1 |" in text
        and "| flow | dis | 3 | opencv 5 |  |" in text
    )
    # a row of frames for each clip, and for each of its views
    with Image.open(strip) as image, Image.open(plots) as bars:
        assert image.size[1] == 8 * (24 + 128) + 6
        assert len(np.unique(np.asarray(bars.convert("L")))) > 9


def test_a_mask_lies_over_its_frame_and_nothing_else_does():
    clip = _clip(0, "general", ("segmentation",))
    shown, grey = _drawn(clip, "segmentation"), clip.video["rgb"].mean(-1)
    seen = clip.video["segmentation"].any(-1)
    assert seen.any() and not seen.all()
    assert np.abs(shown[~seen] - grey[~seen][:, None]).max() <= 1
    colour = clip.video["segmentation"][seen][0].astype(float)
    np.testing.assert_allclose(shown[seen], 0.65 * colour + 0.35 * grey[seen][:, None], atol=1)

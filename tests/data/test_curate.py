"""Curation: rules, cuts, scores and fingerprints against films that are made to be found out."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from unity.data.curate.job import Options, find_videos, group, scorer
from unity.data.curate.ledger import CLIPS, LEDGER, Entry, decide, read_lines, write_results
from unity.data.curate.rules import RULES
from unity.data.curate.scores import SCORES, readers, score
from unity.data.curate.similar import BITS, fingerprint, nearest
from unity.data.film import look, read_film, shown
from unity.data.rules import chosen, judge
from unity.data.video import write_video
from unity.data.weights import found_weights

FAST = {name: SCORES[name].load({}) for name in ("facts", "light", "motion", "sharpness")}


def _texture(seed, height=150, width=200):
    noise = np.random.default_rng(seed).uniform(0, 255, (height // 8, width // 8, 3)).astype(np.float32)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


def _pan(seed, frames, step=2, height=96, width=128):
    """A camera that moves `step` pixels a frame over a texture."""
    whole = np.tile(_texture(seed), (1, 4, 1))
    return np.stack([whole[:height, 8 + step * t : 8 + step * t + width] for t in range(frames)])


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(5)
    shaky = np.stack([_texture(3)[a : a + 96, b : b + 128] for a, b in rng.integers(0, 30, (24, 2))])
    made = {
        "two_shots": np.concatenate([_pan(1, 30, 0), _pan(2, 26, 0)]),
        "pan": _pan(1, 24),
        "still": np.repeat(_pan(1, 1), 24, 0),
        "black": np.concatenate([_pan(1, 12), np.zeros((12, 96, 128, 3), np.uint8)]),
        "shaky": shaky,
        "blurred": np.stack([cv2.GaussianBlur(f, (0, 0), 8) for f in _pan(1, 24)]),
    }
    return {name: write_video(video, folder / f"{name}.mp4", 8.0) for name, video in made.items()}


def test_cuts_are_where_the_films_were_joined(films):
    pytest.importorskip("scenedetect", reason="extra data")
    from unity.data.curate.cuts import clips_of

    clips, about = clips_of(films["two_shots"], most=100.0)
    assert clips == [(0.0, 29 / 8), (30 / 8, 55 / 8)] and about["frames"] == 56
    parts, _ = clips_of(films["two_shots"], most=2.0)
    assert [end - start <= 2.0 for start, end in parts] == [True] * 4
    assert parts[0][1] == parts[1][0] and parts[1][1] == pytest.approx(29 / 8)


def test_frames_of_a_time_are_those_that_are_shown_then(films):
    facts = look(films["two_shots"])
    whole = read_film(facts).frames
    np.testing.assert_array_equal(read_film(facts, 5, within=(30 / 8, 34 / 8)).frames, whole[30:35])
    np.testing.assert_array_equal(read_film(facts, 3, within=(6.0, 55 / 8)).frames, whole[[48, 52, 55]])
    seen = list(shown(facts))
    assert [time for time, _ in seen] == [t / 8 for t in range(56)]
    np.testing.assert_array_equal(np.stack([frame for _, frame in seen]), whole)
    with pytest.raises(ValueError, match="has 2 frames, 5 are wanted"):
        read_film(facts, 5, within=(0.0, 1 / 8))


def test_scores_find_out_what_is_wrong_with_a_film(films):
    found = {name: score(path, 0.0, 23 / 8, FAST)["scores"] for name, path in films.items()}
    # 2 of 128 pixels, 8 times a second
    assert found["pan"]["motion"] == pytest.approx(2 / 128 * 8, rel=0.1)
    assert found["pan"]["shake"] < 0.002 and found["pan"]["frozen"] == 0 and found["pan"]["black"] == 0
    assert found["still"]["frozen"] > 0.8 and found["still"]["motion"] < 0.002
    assert found["black"]["black"] == 0.5
    assert found["shaky"]["shake"] > 0.01
    assert found["blurred"]["sharpness"] < found["pan"]["sharpness"] / 3
    assert found["pan"]["seconds"] == 23 / 8 and found["pan"]["short_side"] == 96
    broke = {
        name: judge([r for r in chosen(RULES, None, None) if r.name not in ("seconds", "short_side")], s)
        for name, s in found.items()
    }
    wanted = {"pan": None, "still": "frozen", "black": "black", "shaky": "shaking"}
    assert {name: broke[name].broken for name in wanted} == wanted
    assert set(broke["pan"].unknown) == {"aesthetic", "text", "duplicate"}


def test_fingerprints_survive_size_and_codec_and_nothing_else(films):
    video = _pan(1, 9)
    again = np.stack([cv2.resize(f, (90, 70), interpolation=cv2.INTER_AREA) for f in video])
    noisy = np.clip(again + np.random.default_rng(0).normal(0, 6, again.shape), 0, 255).astype(np.uint8)
    prints = {"a": fingerprint(video), "other": fingerprint(_pan(2, 9)), "smaller": fingerprint(noisy)}
    close = nearest(prints, 13)
    assert close.keys() == {"smaller"} and close["smaller"][1] == "a" and close["smaller"][0] < 13


def test_nearest_equals_looking_at_all_pairs():
    rng = np.random.default_rng(1)
    base = [int.from_bytes(rng.bytes(BITS // 8), "big") for _ in range(12)]
    flips = [
        sum(1 << int(bit) for bit in rng.choice(BITS, rng.integers(0, 24), replace=False)) for _ in range(120)
    ]
    prints = {f"{i:03}": f"{base[i % 12] ^ flip:048x}" for i, flip in enumerate(flips)}
    wanted, kept = {}, {}
    for name, text in prints.items():
        best = (
            min(((int(text, 16) ^ bits).bit_count(), other) for other, bits in (kept | {"": 0}).items() if other)
            if kept
            else (BITS, "")
        )
        if best[0] < 13:
            wanted[name] = best
        else:
            kept[name] = int(text, 16)
    assert nearest(prints, 13) == wanted and 20 < len(wanted) < 108


def _entry(name, size=(600, 800), print_="0" * 48, **scores):
    numbers = {"seconds": 6.0, "short_side": float(min(size)), "motion": 0.1} | scores
    return Entry(video=f"{name}.mp4", clip=name, end=6.0, size=size, scores=numbers, fingerprint=print_)


def test_a_ledger_holds_every_clip_with_the_reason(tmp_path):
    entries = [
        _entry("small", size=(300, 400)),
        _entry("twin"),
        _entry("double", size=(1080, 1920)),
        replace(_entry("large", size=(1080, 1920)), caption="a large one"),
        _entry("other", print_="f" * 48),
        _entry("written", print_="f" * 48, text=0.1),
        _entry("number", motion=float("nan")),
        Entry(video="torn.mp4", fault="cannot read torn.mp4"),
    ]
    pytest.importorskip("matplotlib")
    summary = write_results(tmp_path, entries, chosen(RULES, None, None), {"aesthetic": "no weights"})
    lines = {line["clip"]: line for line in read_lines(tmp_path / LEDGER)}
    rules = {
        "small": "short_side",
        "twin": "duplicate",
        "double": "duplicate",
        "large": None,
        "other": None,
        "written": "text",
    }
    assert {name: line["rule"] for name, line in lines.items()} == rules | {"number": "still", None: "broken"}
    assert "large" in lines["twin"]["why"] and lines["large"]["scores"]["nearest"] == BITS
    assert [line["clip"] for line in read_lines(tmp_path / CLIPS)] == ["large", "other"]
    assert (summary.videos, summary.clips, summary.kept, summary.seconds) == (8, 7, 2, 12.0)
    assert sum(summary.left_out.values()) + summary.kept == len(entries)
    assert summary.not_judged["aesthetic"] == 7 and "no aesthetic score: no weights" in str(summary)
    picture = cv2.imread(str(tmp_path / "summary.png"))
    assert picture is not None and picture.std() > 10


def test_rules_are_chosen_and_changed(tmp_path):
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"seconds": 2, "aesthetic": None, "nsfw": 0.2}))
    rules = {rule.name: rule.threshold for rule in chosen(RULES, None, file)}
    assert (
        rules["seconds"] == 2 and rules["nsfw"] == 0.2 and "aesthetic" not in rules and rules["short_side"] == 513
    )
    assert [(r.name, r.threshold) for r in chosen(RULES, ("still=0.5", "text"), None)] == [
        ("text", 0.002),
        ("still", 0.5),
    ]
    for names, words in ((("sharpe",), "there is no rule 'sharpe'; there are seconds"), (("text=x",), "text=0.5")):
        with pytest.raises(ValueError, match=words):
            chosen(RULES, names, None)
    for text, words in (("[]", "holds no rules"), ("{", "is no JSON"), ('{"text": "a"}', "text is 'a'")):
        file.write_text(text)
        with pytest.raises(ValueError, match=words):
            chosen(RULES, None, file)


def test_what_is_given_is_looked_at_before_anything_is_done(films, tmp_path, monkeypatch):
    folder = films["pan"].parent
    assert set(find_videos([folder])) == {str(path) for path in films.values()}
    with pytest.raises(ValueError, match="no video is in"):
        find_videos([tmp_path])
    with pytest.raises(ValueError, match="there is no nowhere"):
        find_videos([type(tmp_path)("nowhere")])
    with pytest.raises(ValueError, match="names none of aesthetic"):
        found_weights(("clip=x",), ("aesthetic",))
    with pytest.raises(ValueError, match="there is no x"):
        found_weights(("aesthetic=x",), ("aesthetic",))
    assert Options(videos=(folder,), out=tmp_path).longest == 20.0
    assert [group(n) for n in (None, 0, 1, 2, 5)] == [
        "general",
        "general",
        "single_person",
        "two_persons",
        "general",
    ]
    work = scorer(list(FAST), {})
    record, data = work("a", {"video": str(films["pan"]), "start": 0.0, "end": 1.0})
    assert data == b"" and record["scores"].keys() >= {"motion", "black"} and len(record["fingerprint"]) == 48


def test_scores_whose_weights_are_missing_are_unknown_and_said():
    using, missing = readers(["facts", "aesthetic", "people"], {})
    assert using.keys() == {"facts"}
    assert (
        "--weights aesthetic=FOLDER" in missing["aesthetic"] and "--weights mediapipe=WHEEL" in missing["people"]
    )


def test_the_aesthetic_score_is_clip_and_its_head(tmp_path):
    """Of random weights, against the same arithmetic written out."""
    torch = pytest.importorskip("torch")
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    from unity.data.curate.aesthetic import load

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = small | {"image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    clip = CLIPModel(CLIPConfig(text_config=small, vision_config=vision, projection_dim=8)).eval()
    clip.save_pretrained(tmp_path)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    widths, places = (8, 1024, 128, 64, 16, 1), (0, 2, 4, 6, 7)
    layers = {p: torch.nn.Linear(a, b) for p, a, b in zip(places, widths, widths[1:], strict=False)}
    state = {f"layers.{p}.{n}": v for p, layer in layers.items() for n, v in layer.state_dict().items()}
    torch.save(state, tmp_path / "head.pth")
    frames = _pan(1, 2)
    with torch.no_grad():
        pixels = processor(images=list(frames), return_tensors="pt")["pixel_values"]
        hidden = clip.visual_projection(clip.vision_model(pixels).pooler_output)
        hidden = hidden / hidden.norm(dim=-1, keepdim=True)
        for place in places:
            hidden = layers[place](hidden)
    np.testing.assert_allclose(load(tmp_path)(frames), 10 * hidden[:, 0].numpy(), rtol=1e-5)
    (tmp_path / "head.pth").unlink()
    with pytest.raises(ValueError, match="has no head.pth"):
        load(tmp_path)


def test_decisions_are_free_to_change():
    entries = [_entry("a", motion=0.01), _entry("b", motion=0.05, print_="f" * 48)]
    kept = {
        t: [e.clip for e in decide(entries, chosen(RULES, (f"still={t}",), None)) if e.kept]
        for t in (0.0, 0.02, 1.0)
    }
    assert kept == {0.0: ["a", "b"], 0.02: ["b"], 1.0: []}

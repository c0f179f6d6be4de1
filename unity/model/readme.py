"""README.md beside weights that leave this machine: what they are, what was trained on what, how to use them.

It says what the card knows and no more; scores come from a file of `python -m unity.evaluate`.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from huggingface_hub import ModelCardData

from unity.files import write_text
from unity.modality.table import MODALITIES
from unity.model.card import ModelCard
from unity.model.hub import NAMES, is_name
from unity.tasks import TASKS

NAME = "README.md"
# what the folder is → how to use it
_USE = {
    "unity": "```bash\npython -m unity.infer --modality {modality} --video clip.mp4 --checkpoint FOLDER\n```",
    "diffusers": (
        "```python\nfrom unity.pipeline import UnityVideoPipeline\n\n"
        'pipeline = UnityVideoPipeline.from_pretrained("FOLDER")\n'
        'views = pipeline(modality="{modality}", video=frames).views\n```\n\n'
        "or `python -m unity.infer --modality {modality} --video clip.mp4 --checkpoint FOLDER`."
    ),
    "rgb": (
        "The RGB half alone, as `WanTransformer3DModel` of diffusers reads it: "
        '`WanTransformer3DModel.from_pretrained("FOLDER")`.'
    ),
    "wan": "The RGB half alone, under the names of Wan's own programs and ComfyUI.",
    "adapter": "A LoRA for the RGB half of what it starts from: `load_lora_weights` of diffusers, or ComfyUI.",
    "release": "Both streams, as the authors' 5B release has them.",
}


def write_readme(card: ModelCard, folder: Path, use: str, scores: Mapping[str, Any] | None = None) -> Path:
    """Write README.md; `use` is what the folder is (a row above), `scores` are `read_scores`'."""
    return write_text(folder / NAME, readme(card, use, scores))


def readme(card: ModelCard, use: str, scores: Mapping[str, Any] | None = None) -> str:
    """The text, with the front matter that the hub reads."""
    modality = next(iter(card.modalities), "depth")
    parts = [
        f"---\n{_front(card, use).to_yaml()}\n---",
        "# A unity-video model\n\nOne diffusion transformer for RGB video and other views of it ("
        + (", ".join(card.modalities) or "none of them learnt yet")
        + "). This page was generated from the card of the weights.",
        "## What was trained on what\n\n" + _table(_learnt(card)),
        "## What it reads and draws\n\n" + _table(_spoken(card)) if card.modalities else "",
        "## Sampling\n\n" + _table(_drawn(card)),
        "## Scores\n\n" + ("\n\n".join(_scored(scores)) if scores else "None came with these weights."),
        "## Use\n\n" + _USE[use].format(modality=modality),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def read_scores(path: Path) -> dict[str, Any]:
    """The numbers of a file that `python -m unity.evaluate` wrote; ValueError for any other."""
    try:
        content = json.loads(path.read_bytes())
        means = {name: row["scores"]["model"] for name, row in content["results"].items()}
        for measures in means.values():
            [float(mean["mean"]) for mean in measures.values()]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} holds no results of `python -m unity.evaluate` ({error}); give its --out"
        ) from error
    return content


def _front(card: ModelCard, use: str) -> ModelCardData:
    # anything else is a place on somebody's disk
    named = NAMES[card.base].transformer if card.base in NAMES else card.base if is_name(card.base) else None
    return ModelCardData(
        library_name="unity-video" if use in ("unity", "diffusers") else "diffusers",
        pipeline_tag="text-to-video",
        tags=["unity-video", *card.modalities],
        base_model=named,
    )


def _learnt(card: ModelCard) -> Iterator[tuple[str, str]]:
    model = card.model
    yield (
        "shape",
        f"{model.num_layers} blocks of width {model.dim}, codec {model.codec}, text encoder {model.text}",
    )
    yield "conventions", f"input {model.input}, output {model.output}, predicts {model.prediction}"
    yield "clips", f"{card.frames} frames of {card.size[0]}×{card.size[1]}"
    yield "data", _off_disk(card.data) or "not known"
    yield "stage, step", f"{card.stage}, {card.step:,}" if card.stage else "none of this project's training"
    rate = "" if card.learning_rate is None else f", peak rate {card.learning_rate:g}"
    yield "optimizer", f"{card.optimizer}{rate}" if card.optimizer else "not known"
    if card.base:
        yield "starts from", _off_disk(card.base)
    yield from ((about, _off_disk(words)) for about, words in card.history.items())


def _off_disk(words: str) -> str:
    """Of what is a path on somebody's disk, the last name alone."""
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(words).is_absolute() or words.startswith("~"):
            return kind(words).name
    return words


def _spoken(card: ModelCard) -> Iterator[tuple[str, str]]:
    for name in card.modalities:
        yield name, f"“{card.type_prompts[name]}”, drawn as {card.encodings[name]}"


def _drawn(card: ModelCard) -> Iterator[tuple[str, str]]:
    for task, row in TASKS.items():
        schedule = card.schedule(task)
        guidance = f", guidance {schedule.guidance:g}" if row.captioned else ""
        way = f"{schedule.steps} steps of {schedule.sampler}, shift {schedule.shift:g}"
        yield f"{task}: {row.words}", way + guidance


def _scored(scores: Mapping[str, Any]) -> Iterator[str]:
    """Means over clips with their intervals, beside those of whoever else was examined."""
    for name, row in scores["results"].items():
        who, measures = list(row["scores"]), row["scores"]["model"]
        known = MODALITIES[name].measures if name in MODALITIES else {}
        lines = [f"| {name}, {row.get('clips', '?')} clips | {' | '.join(who)} |", "|---" * (1 + len(who)) + "|"]
        for key in measures:
            numbers = [_mean(row["scores"][one].get(key)) for one in who]
            lines.append(f"| {known[key].words if key in known else key} | {' | '.join(numbers)} |")
        yield "\n".join(lines)


def _mean(mean: Mapping[str, float] | None) -> str:
    if mean is None or mean.get("mean") is None:
        return ""
    low, high = mean.get("low"), mean.get("high")
    return f"{mean['mean']:.3f}" + ("" if low is None or high is None else f" [{low:.3f}, {high:.3f}]")


def _table(rows: Iterator[tuple[str, str]]) -> str:
    """Two columns; what people wrote must not end a cell."""
    lines = (f"| {name} | {' '.join(words.split()).replace('|', '/')} |" for name, words in rows)
    return "\n".join(("| | |", "|---|---|", *lines))

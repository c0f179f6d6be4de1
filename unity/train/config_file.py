"""The configuration of a run as JSON, and back: nothing that a file says is believed unread."""

import json
from dataclasses import asdict
from pathlib import Path

from unity.command import check_bounds
from unity.files import write_json
from unity.train import folder
from unity.train.options import Options
from unity.typed import typed

# settings that older runs did not keep: they spoke our words, adapted and recomputed nothing, cut no sequences,
# looked over no machines, watched no ranks, kept no best ones, wrote between the steps, to one place, had and
# learnt all of their stage, with every part of the model, and held all on the GPU, as wide as it computed
_LATER = {
    "type_prompts", "encodings", "lora", "modalities", "only", "sequence_parallel", "recompute", "plan",
    "preflight", "watchdog_minutes", "keep_best", "save_beside", "remote", "views", "offload", "base_storage",
    "recipe", "parts_scale", "learn", "sources", "video_only", "in_context_learner", "switcher",
}  # fmt: skip


def to_plain(config: Options) -> dict:
    """As JSON has it."""
    return json.loads(json.dumps(asdict(config), default=str))


def write_config(config: Options, path: Path) -> None:
    write_json(path, asdict(config))


def read_config(run: Path) -> Options:
    """The configuration of a run folder, from config.json, else from its newest checkpoint, which carries it too.

    Raises ValueError where neither can be read.
    """
    faults = []
    for content, place in folder.configurations(run):
        if isinstance(content, str):
            faults.append(f"{place} {content}")
            continue
        try:
            return _checked(content, place)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            faults.append(f"{place} holds no configuration of this version ({error})")
    raise ValueError(f"{'; '.join(faults)}; give another --resume, or --init {run}/model for its weights alone")


def _checked(content: object, place: Path) -> Options:
    options = typed(Options, content, optional=_LATER)
    check_bounds(options)
    return options

"""The model card: what a checkpoint is, and what belongs to it; `config.json` of a model folder."""

import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from unity.config import ModelConfig
from unity.files import write_json
from unity.modality.base import Modality
from unity.modality.encodings import ENCODINGS, OURS
from unity.modality.table import MODALITIES
from unity.tasks import TASKS

NAME = "config.json"
# a card is a page of text
_MOST_BYTES = 1 << 20
# least and most of every number of a card; what lies beyond is no model
_BOUNDS: dict[str, tuple[float, float]] = {
    "dim": (6, 1 << 16),
    "ffn_dim": (1, 1 << 18),
    "num_heads": (1, 1024),
    "num_layers": (1, 1024),
    "latent_channels": (1, 4096),
    "num_modalities": (1, 64),
    "patch": (1, 64),
    "freq_dim": (2, 1 << 14),
    "text_dim": (1, 1 << 16),
    "text_len": (1, 1 << 16),
    "eps": (1e-12, 0.1),
    "rope_theta": (1, 1e9),
    "stage": (0, 2),
    "step": (0, 1 << 53),
    "frames": (1, 1 << 16),
    "size": (1, 1 << 14),
    "learning_rate": (1e-300, 1000),
    "steps": (1, 1000),
    "shift": (1e-6, 1000),
}
_DEFAULT_BOUNDS = (0, 1 << 20)
# entries that name modalities
_BY_MODALITY = ("modalities", "type_prompts", "encodings")


# the rows of unity.sampler.SAMPLERS, which takes torch to read
SamplerName = Literal["unipc", "euler", "dpm++", "stochastic"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How samples of a task are drawn, unless somebody asks for something else."""

    # of the sampler
    steps: int = 50
    # above 1: more of the steps where there is much noise, as in training (unity.flow_matching.TimeConfig)
    shift: float = 1.0
    # classifier-free, of the tasks that read a caption
    guidance: float = 7.5
    sampler: SamplerName = "unipc"

    def asked(self, **wanted: float | str | None) -> "Schedule":
        """This one, but for what somebody asks for."""
        return replace(self, **{name: value for name, value in wanted.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a checkpoint is: its shape, what it has been trained on, and the words that it was trained with."""

    model: ModelConfig
    modalities: tuple[str, ...]
    stage: int
    step: int
    frames: int
    # height, width
    size: tuple[int, int]
    data: str = ""
    # by what and at which peak rate it was trained, where that is known
    optimizer: Literal["adamw", "adamw8", "muon"] | None = None
    learning_rate: float | None = None
    # of an adapter: the weights that it was trained beside
    base: str = ""
    # modality → the words that stand for it (C_m of the paper), and how its video is drawn, a name in
    # unity.modality.encodings; what is left out is ours
    type_prompts: dict[str, str] = field(default_factory=dict)
    encodings: dict[str, str] = field(default_factory=dict)
    # by task; what is left out is drawn as Schedule says
    schedules: dict[str, Schedule] = field(default_factory=dict)
    # for people: what else is known of how it came to be, by what it is about
    history: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        words = {name: MODALITIES[name].type_prompt for name in self.modalities}
        drawn = dict.fromkeys(self.modalities, OURS)
        object.__setattr__(self, "type_prompts", words | self.type_prompts)
        object.__setattr__(self, "encodings", drawn | self.encodings)

    def modality(self, name: str) -> Modality:
        """The modality as this checkpoint knows it: its own words and its own colours."""
        row = ENCODINGS[name][self.encodings.get(name, OURS)]
        return replace(row, type_prompt=self.type_prompts.get(name, row.type_prompt))

    def schedule(self, task: str) -> Schedule:
        """How this checkpoint's samples of a task are drawn."""
        return self.schedules.get(task, Schedule())


def diffusers_settings(card: ModelCard) -> dict[str, Any]:
    """A card as diffusers keeps the settings of a model: those of its shape flat, the rest as one entry."""
    entries = json.loads(json.dumps(asdict(card)))
    return entries.pop("model") | {"card": entries}


def _ours(content: dict[str, Any]) -> dict[str, Any]:
    """What `diffusers_settings` took apart, put together again; anything else as it is."""
    if not isinstance(content.get("card"), dict):
        return content
    flat = {name: value for name, value in content.items() if name != "card" and not name.startswith("_")}
    return {"model": flat} | content["card"]


def write_card(card: ModelCard, folder: Path) -> Path:
    return write_json(folder / NAME, asdict(card))


def read_card_file(folder: Path) -> ModelCard | None:
    """The card in a folder, None if there is none. Raises ValueError for one that no model could have."""
    path = folder / NAME
    if not path.is_file():
        return None
    content = _json(path)
    content = _ours(content) if isinstance(content, dict) else {}
    if "model" not in content:
        # such as diffusers' own config.json
        return None
    try:
        return card_of(content)
    except ValueError as error:
        raise ValueError(f"{path} is no model card: {error}; copy the model folder again") from error


def card_of(content: Mapping[str, Any]) -> ModelCard:
    """The card that JSON holds, as `write_card` or `diffusers_settings` gave it; ValueError for what is none."""
    content = _ours(dict(content))
    if not isinstance(content["model"], dict):
        raise ValueError(f"model is {_short(content['model'])}, not a list of settings")
    rest = {name: value for name, value in content.items() if name != "model"}
    return ModelCard(model=shape_of(content["model"]), **_checked(ModelCard, rest))


def shape_of(settings: Mapping[str, Any]) -> ModelConfig:
    """The shape that JSON holds; ValueError for what no model can have."""
    return ModelConfig(**_checked(ModelConfig, settings))


def _json(path: Path) -> Any:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has {path.stat().st_size:,} bytes, and a card is a page")
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({_short(error)}); copy the model folder again") from error


def _checked(kind: type, content: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a dataclass, of the right types and within bounds, before any of them is believed."""
    hints = typing.get_type_hints(kind)
    unknown = sorted(content.keys() - {f.name for f in fields(kind)})
    if unknown:
        raise ValueError(f"unknown settings {_short(unknown)}, of another version of this program")
    values = {name: _value(name, value, hints[name]) for name, value in content.items()}
    needed = {f.name for f in fields(kind) if f.default is f.default_factory}
    missing = sorted(needed - values.keys() - {"model"})
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    _check_names(values)
    return values


def _check_names(values: Mapping[str, Any]) -> None:
    strange = sorted(name for key in _BY_MODALITY for name in values.get(key, ()) if name not in MODALITIES)
    if strange:
        raise ValueError(
            f"it has modalities {_short(strange)}, and this version knows "
            f"{', '.join(MODALITIES)}: name the files of others with --modalities"
        )
    strange = sorted(values.get("schedules", {}).keys() - TASKS.keys())
    if strange:
        raise ValueError(f"it has schedules of {_short(strange)}, and the tasks are {', '.join(TASKS)}")
    for name, encoding in values.get("encodings", {}).items():
        if encoding not in ENCODINGS[name]:
            raise ValueError(
                f"{name} is drawn as {_short(encoding)}, which is none of {', '.join(ENCODINGS[name])}"
            )


def _value(name: str, value: Any, hint: Any) -> Any:
    """JSON's value as the type that a field has; raises ValueError where it is none."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _value(name, value, args[0])
    if origin is typing.Literal:
        if not isinstance(value, str) or value not in args:
            raise ValueError(f"{name} is {_short(value)}, not one of {', '.join(args)}")
        return value
    if origin is tuple:
        free = args[-1] is Ellipsis
        if not isinstance(value, list) or len(value) > 64 or not (free or len(value) == len(args)):
            raise ValueError(f"{name} is {_short(value)}, not {'a list' if free else f'{len(args)} numbers'}")
        return tuple(_value(name, item, args[0]) for item in value)
    if origin is dict and args[1] is Schedule:
        if not (isinstance(value, dict) and all(isinstance(item, dict) for item in value.values())):
            raise ValueError(f"{name} is {_short(value)}, not settings by name")
        return {key: Schedule(**_checked(Schedule, item)) for key, item in value.items()}
    if origin is dict:
        if not (isinstance(value, dict) and all(isinstance(item, str) for item in value.values())):
            raise ValueError(f"{name} is {_short(value)}, not words by name")
        return value
    return _number(name, value, hint) if hint in (int, float) else _instance(name, value, hint)


def _number(name: str, value: Any, kind: type) -> int | float:
    low, high = _BOUNDS.get(name, _DEFAULT_BOUNDS)
    number = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high or not math.isfinite(value):
        raise ValueError(
            f"{name} is {_short(value)}, not {'a whole' if kind is int else 'a'} number {low:g}..{high:g}"
        )
    return kind(value)


def _instance(name: str, value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {_short(value)}, and should be of type {kind.__name__}")
    return value


def _short(value: Any) -> str:
    words = " ".join(str(value).split())
    return words if len(words) <= 120 else words[:117] + "..."

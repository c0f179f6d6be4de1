"""Names that requests may hold, the rows of tables, as types."""

from typing import TYPE_CHECKING, Annotated, Literal, get_args

from fastapi import Path

from unity.data.clips import SOURCES
from unity.data.shards import STREAMS
from unity.modality.table import MODALITIES
from unity.model.card import SamplerName
from unity.tasks import TASKS

SAMPLER_NAMES: tuple[str, ...] = get_args(SamplerName)

if TYPE_CHECKING:
    # a type checker cannot read the tables
    Task = str
    Name = str
    Sampler = str
    Source = str
    Stream = str
else:
    Task, Name, Sampler = Literal[tuple(TASKS)], Literal[tuple(MODALITIES)], Literal[SAMPLER_NAMES]
    Source, Stream = Literal[SOURCES], Literal[STREAMS]

JobId = Annotated[str, Path(pattern="^[0-9a-f]{12}$")]

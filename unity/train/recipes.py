"""Whole recipes by name (`--recipe`): settings that belong together; what is given beside one stays as given."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from unity.flow_matching import TimeConfig
from unity.routing import RoutingConfig

if TYPE_CHECKING:
    from unity.train.options import Options


def _release(base: "Options") -> "Options":
    """The training of the authors' 5B release, from Wan 2.2 5B, which `--init` names.

    There, all samples of a step have one task and one modality, the last two modalities twice as often as the
    others; here both change from sample to sample, and all modalities come alike.
    """
    shape = base.architecture
    if not shape.stem:
        shape = replace(shape, input="expert", clean_time="shared")
    optim = replace(
        base.optim, kind="adamw8", lr=5e-5, parts_scale=10.0, warmup=200, schedule="cosine", final=0.1, clip=1.5,
        ema=0.9999,
    )  # fmt: skip
    routing = RoutingConfig(joint=0.5, control=0.25, estimate=0.25, caption_dropout=0.1)
    return replace(
        base, stage=2, steps=15_000, frames=33, size=(256, 256), architecture=shape, optim=optim, routing=routing,
        time=TimeConfig(kind="logit_normal", shift=5.0),
    )  # fmt: skip


RECIPES: dict[str, Callable[["Options"], "Options"]] = {"release": _release}

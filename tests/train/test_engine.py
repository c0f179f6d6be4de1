"""ZeRO-3 computes what plain torch computes, where it is known not to by default."""

import json
from pathlib import Path

import pytest

from unity.train.zero import settings

BASE = json.loads((Path(__file__).parents[2] / "launchers/zero3.json").read_text())
SIZES = dict(precision="bf16", batch_size=8, micro_batch=2, world_size=2, clip=1.0)


QUICK = ("initial_weights", "against_torch", "streams_that_not_every_rank_wants", "bf16")
SLOW = ("muon", "adapters", "recompute", "offload", "adam8", "packed")


@pytest.mark.parametrize("name", QUICK)
def test_two_ranks(two_ranks, name):
    """See engine_on_ranks.py: both ranks say the name of a check when it has passed."""
    said, _ = two_ranks
    assert said.count(f"check_{name}") == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_two_ranks_more(two_ranks_more, name):
    assert two_ranks_more.count(f"check_{name}") == 2


def test_settings_accumulate_what_does_not_fit_at_once():
    found = settings(BASE, **SIZES)
    assert found["gradient_accumulation_steps"] == 2
    assert found["data_types"]["grad_accum_dtype"] == "fp32"
    assert found["bf16"] == {"enabled": True}


@pytest.mark.parametrize(
    ("base", "sizes", "reason"),
    [
        (BASE, {"batch_size": 6}, "not a multiple of 2 ranks"),
        (BASE | {"gradient_clipping": 2.0}, {}, "leave .'gradient_clipping'. out"),
        ({"zero_optimization": {"stage": 2, "reduce_scatter": True}}, {}, "stage is 2"),
        ({"zero_optimization": {"stage": 3, "reduce_scatter": False}}, {}, "reduce_scatter must be true"),
        ({"zero_optimization": {"stage": 3}}, {}, "reduce_scatter must be true"),
        (
            {"zero_optimization": BASE["zero_optimization"] | {"offload_optimizer": {"device": "cpu"}}},
            {},
            "leave .'offload_optimizer'. out",
        ),
    ],
)
def test_settings_that_train_wrongly_are_refused(base, sizes, reason):
    with pytest.raises(ValueError, match=reason):
        settings(base, **(SIZES | sizes))

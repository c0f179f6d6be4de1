"""Shapes in public signatures are checked at run time in the tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from jaxtyping import install_import_hook

_MODEL = ["unity.model", "unity.flow_matching", "unity.objective", "unity.routing", "unity.sampler"]
_DATA = [f"unity.data.{name}" for name in ("shards", "plan", "loader", "endings")]
install_import_hook(_MODEL + _DATA, "beartype.beartype")

"""Shapes in public signatures are checked at run time in the tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from jaxtyping import install_import_hook

install_import_hook(
    ["unity.model", "unity.flow_matching", "unity.objective", "unity.routing", "unity.sampler"],
    "beartype.beartype",
)

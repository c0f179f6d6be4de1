"""Shapes in public signatures are checked at run time in the tests."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jaxtyping
import pytest

_OPS = ["unity.ops", "unity.attention"]
_MODEL = ["unity.model", "unity.flow_matching", "unity.objective", "unity.routing", "unity.sampler"]
_DATA = [f"unity.data.{name}" for name in ("shards", "plan", "loader", "endings")]
jaxtyping.install_import_hook(_OPS + _MODEL + _DATA, "beartype.beartype")
# shells start what runs in the background deaf to it, and the programs under test would be, too
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def unchecked():
    """Call public functions as users do, with no check of their annotations: of their own errors, or traced."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)

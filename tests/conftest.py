"""Shapes in public signatures are checked at run time in the tests."""

import importlib
import json
import os
import signal
import struct
import types
from pathlib import Path

# beside another process of tests, more threads would wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jaxtyping
import pytest

_ROOT = Path(__file__).parents[1]
_NAMES = {".".join(path.relative_to(_ROOT).with_suffix("").parts) for path in (_ROOT / "unity").rglob("*.py")}
# compiled as they are written, by numba and, behind the link unity/kernels, by Triton: nothing may wrap them
_COMPILED = {f"unity.data.simulate.{name}" for name in ("primitives", "raster", "render", "texture", "truth")}
_KERNELS = {name for name in _NAMES if name.startswith("unity.kernels.")}
# an int where a float is asked for is right, as PEP 484 has it
_CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
jaxtyping.install_import_hook(sorted(_NAMES - _COMPILED - _KERNELS), _CHECKER)
# shells start what runs in the background deaf to it, and the programs under test would be, too
signal.signal(signal.SIGINT, signal.default_int_handler)


# files whose tests share what takes many seconds to make, by what they share: each group runs in one process
_TOGETHER = {
    "tests/train/test_engine.py": "two ranks",
    "tests/train/test_preflight.py": "two ranks",
    "tests/train/test_sequence.py": "two ranks",
    "tests/train/test_train_resume.py": "two ranks",
    "tests/train/test_faults.py": "a finished run",
    "tests/train/test_overfit.py": "a run that has learnt",
    "tests/model/test_strange_weights.py": "all files loaded",
    "tests/data/simulate/test_dataset.py": "simulated datasets",
    "tests/test_docs.py": "what programs say of their flags",
    "tests/test_install.py": "a wheel",
    "tests/apps/test_web.py": "a page's server",
    "tests/apps/test_guard.py": "a page's server",
    "tests/apps/test_watching.py": "a page's server",
    "tests/apps/test_pages.py": "a browser",
    "tests/apps/test_study.py": "a study",
    "tests/apps/test_study_page.py": "a study's page",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `-n`: tests one by one to whatever process is free, but for those."""
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _TOGETHER.get(nodeid.partition("::")[0], nodeid)

    return Together(config, log)


@pytest.fixture(scope="session")
def hollow():
    """hollow(path, tensors): a safetensors file in bf16 whose data are zeros that take no place on the disk."""

    def write(path: Path, state: dict) -> Path:
        header, end = {}, 0
        for name, value in state.items():
            start, end = end, end + 2 * value.numel()
            header[name] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + end)
        return path

    return write


@pytest.fixture
def unchecked():
    """Call public functions as users do, with no check of their annotations: of their own errors, or traced."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def s3():
    """A client of an S3 server on this machine, with the empty bucket `store`; environment variables name it."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    # as botocore's readers, and mosaicml-streaming, have it
    told = dict.fromkeys(("AWS_ENDPOINT_URL", "S3_ENDPOINT_URL"), address)
    told |= {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        client = importlib.import_module("boto3").client("s3")
        client.create_bucket(Bucket="store")
        yield client
    server.stop()


@pytest.fixture
def flash_attention_4(monkeypatch):
    """A stand-in for the package, with the two functions and the results of 4.0.0b36, in plain torch.

    What it was called with: a list of names and of `deterministic`.
    """
    import torch

    from unity import flash4

    called = []

    def weights(q, k):
        logits = torch.einsum("bmnk,blnk->bnml", q, k) * q.shape[-1] ** -0.5
        return logits.softmax(-1), logits.logsumexp(-1).float()

    def forward(q, k, v, *, return_lse):
        called.append(("forward", return_lse))
        share, sums = weights(q, k)
        return torch.einsum("bnml,blnk->bmnk", share, v).contiguous(), sums, None, None, None

    def backward(q, k, v, out, dout, lse, *, deterministic):
        called.append(("backward", deterministic))
        share, sums = weights(q, k)
        assert torch.equal(sums, lse)
        slope = torch.einsum("bmnk,blnk->bnml", dout, v) - (dout * out).sum(-1).transpose(1, 2).unsqueeze(-1)
        slope = slope * share * q.shape[-1] ** -0.5
        given = torch.einsum("bnml,blnk->bmnk", slope, k), torch.einsum("bnml,bmnk->blnk", slope, q)
        return *(x.contiguous() for x in given), torch.einsum("bnml,bmnk->blnk", share, dout).contiguous()

    module = types.SimpleNamespace(_flash_attn_fwd=forward, _flash_attn_bwd=backward)
    monkeypatch.setattr(flash4, "_package", lambda: module)
    return called

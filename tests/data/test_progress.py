"""What a log shows of a stage that goes on for hours."""

import re
import sys
import time

import pytest

pyarrow = pytest.importorskip("pyarrow", reason="extra data")

from pyarrow import parquet  # noqa: E402

from unity.data.progress import progress  # noqa: E402


def _write(file, names):
    parquet.write_table(pyarrow.table({"name": names}), file)


def test_a_log_tells_how_far_a_stage_is(tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    _write(out / "before.parquet", list("abc"))
    with progress(tmp_path, todo=7, whole=10, seconds=0.02):
        _wait(capsys, r".*: 3 of 10 done\n")
        _write(out / "one.parquet", list("de"))
        # what is still being written
        (out / "torn.parquet").write_bytes(b"PAR1 and no end")
        _wait(capsys, r".*: 5 of 10 done, about \S+ seconds to go\n")
        _write(out / "torn.parquet", list("f"))
        _wait(capsys, r".*: 6 of 10 done, about \S+ seconds to go\n")
    capsys.readouterr()
    # Ray draws a bar there
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with progress(tmp_path, todo=7, whole=10, seconds=0.01):
        time.sleep(0.1)
    assert not capsys.readouterr().err


def _wait(capsys, line):
    said, until = "", time.monotonic() + 30
    while not re.search(line, said):
        assert time.monotonic() < until, said
        time.sleep(0.01)
        said += capsys.readouterr().err

"""The cache of compiled kernels follows their sources."""

import os

from unity.data.simulate.jit import forget_stale


def test_a_change_in_any_source_drops_all_cached_kernels(tmp_path):
    (tmp_path / "a.py").write_text("x = 1")
    (tmp_path / "b.py").write_text("y = 1")
    forget_stale(tmp_path)
    cached = [tmp_path / "__pycache__" / name for name in ("a.f-1.py311.nbi", "a.f-1.py311.1.nbc")]
    for path in cached:
        path.write_bytes(b"compiled")
    os.utime(tmp_path / "b.py", (1, 1))
    forget_stale(tmp_path)
    assert all(path.exists() for path in cached)
    (tmp_path / "b.py").write_text("y = 2")
    forget_stale(tmp_path)
    assert not any(path.exists() for path in cached)

"""Build the C++ kernels with the system's compiler: `python csrc/build.py FOLDER` writes FOLDER/_native_<key>.so.

The key is a hash of the sources, so a changed source never meets an old library. Each kernel file is compiled once
per instruction set; which one runs is decided when the library is loaded. Standard library only: setup.py calls
this before anything is installed.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
COMPILERS = ("g++", "c++")
FLAGS = ("-std=c++17", "-O3", "-fopenmp", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math")
AVX2 = ("-mavx2", "-mfma")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512")
LEVELS = {"baseline": ()}
if platform.machine() in ("x86_64", "AMD64"):
    LEVELS |= {"avx2": AVX2, "avx512": AVX512}


def library_name() -> str:
    """The file name of the library that belongs to these sources."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.glob("*.[ch]*")) + [Path(__file__)]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"_native_{digest.hexdigest()[:16]}.so"


def build(folder: Path | str) -> str | None:
    """Put the library into `folder` unless it is there; None, or one sentence why there is none.

    The file appears whole or not at all, also when several processes build at once.
    """
    target = Path(folder) / library_name()
    if target.exists():
        return None
    compiler = os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)
    if compiler is None:
        return f"no C++ compiler was found ({' or '.join(COMPILERS)}, or name one in CXX)"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="unity_native_") as scratch:
            partial = target.with_name(f".{os.getpid()}{target.name}")
            shutil.copy(_link(compiler, Path(scratch)), partial)
            partial.replace(target)
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if "error" in line] or [error.stderr.strip()]
        return f"{compiler} failed: {lines[0]}"
    except OSError as error:
        return f"{compiler} could not build into {target.parent}: {error}"
    return None


def _link(compiler: str, scratch: Path) -> Path:
    objects, commands = [scratch / "level.o"], [[SOURCES / "level.cpp"]]
    for source in sorted(SOURCES.glob("*.cpp")):
        if source.stem != "level":
            objects += [scratch / f"{source.stem}_{level}.o" for level in LEVELS]
            commands += [[f"-DLEVEL={level}", *flags, source] for level, flags in LEVELS.items()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = zip(commands, objects, strict=True)
        list(pool.map(lambda job: _call(compiler, *FLAGS, "-c", *job[0], "-o", job[1]), jobs))
    _call(compiler, "-shared", "-fopenmp", *objects, "-o", scratch / "library.so")
    return scratch / "library.so"


def _call(*command: str | Path) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python csrc/build.py FOLDER")
    sys.exit(build(sys.argv[1]))

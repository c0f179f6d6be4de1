"""Loading published weights from a folder or the hub's cache, never from the network."""

from pathlib import Path
from typing import Any


def load_pretrained(loader: Any, weights: Path | None, repo: str, part: str, **options: Any) -> Any:
    """`loader.from_pretrained` on `weights/part`, on `weights` itself, or on the cached copy of the hub's `repo`.

    Raises ValueError with the way to fetch the files if they are not there or do not load.
    """
    if weights is None:
        source, where = repo, {"subfolder": part}
    else:
        source, where = (weights / part if (weights / part).is_dir() else weights), {}
    try:
        return loader.from_pretrained(source, local_files_only=True, **where, **options)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot load {loader.__name__} from {source}: {str(error).strip().splitlines()[0]} "
            f"Nothing is downloaded here; fetch it once with "
            f"`huggingface-cli download {repo} --include '{part}/*' --local-dir FOLDER` and pass FOLDER as weights"
        ) from error

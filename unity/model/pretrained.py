"""Loading published weights from a folder, the hub's cache, or the hub where it is named."""

from pathlib import Path
from typing import Any

from unity.model import hub


def load_pretrained(loader: Any, weights: Path | None, repo: str, part: str, **options: Any) -> Any:
    """`loader.from_pretrained` on `weights/part`, on `weights` itself, or on the cached copy of the hub's `repo`.

    `weights` may be a name of `unity.model.hub`. Raises ValueError with the way to fetch the files if they are not
    there or do not load.
    """
    if weights is None:
        source, where = repo, {"subfolder": part}
    else:
        folder = hub.local(weights, part)
        source, where = (folder / part if (folder / part).is_dir() else folder), {}
    try:
        return loader.from_pretrained(source, local_files_only=True, **where, **options)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot load {loader.__name__} from {source}: {str(error).strip().splitlines()[0]} "
            f"Give `{repo}` as its weights to download it, or fetch it elsewhere with "
            f"`huggingface-cli download {repo} --include '{part}/*' --local-dir FOLDER` and pass FOLDER as weights"
        ) from error

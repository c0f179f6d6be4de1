"""Weights by name: a row of NAMES, or a repository of the Hugging Face hub.

    wan2.1-1.3b                                   a row of NAMES
    KlingTeam/UnityVideo                          a repository
    owner/repository/folder/file.safetensors      a file in one

What is asked for is downloaded into huggingface_hub's cache, with its progress; an interrupted download goes on.
Where the hub cannot be reached, what lies in the cache is used.
"""

import functools
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
# the transformer, or one part of a repository of diffusers
TRANSFORMER = "transformer"
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(/[\w. /-]+)?")


class Row(NamedTuple):
    """Where published weights are."""

    transformer: str
    # VAE and text encoder
    parts: str


_WAN = {size: f"Wan-AI/Wan2.{size}-Diffusers" for size in ("1-T2V-1.3B", "1-T2V-14B", "2-TI2V-5B")}
NAMES: dict[str, Row] = {
    "wan2.1-1.3b": Row(_WAN["1-T2V-1.3B"], _WAN["1-T2V-1.3B"]),
    "wan2.1-14b": Row(_WAN["1-T2V-14B"], _WAN["1-T2V-14B"]),
    "wan2.2-5b": Row(_WAN["2-TI2V-5B"], _WAN["2-TI2V-5B"]),
    "unityvideo-5b": Row("KlingTeam/UnityVideo", _WAN["2-TI2V-5B"]),
}


def is_name(path: Path | str) -> bool:
    """Whether it names published weights: neither it nor the folder it would lie in is on this machine."""
    words = Path(path).as_posix()
    if Path(path).exists() or Path(path).is_absolute():
        return False
    return words in NAMES or bool(_ID.fullmatch(words)) and not Path(words.split("/")[0]).exists()


def local(path: Path | str, part: str = TRANSFORMER) -> Path:
    """The path itself, or that of what it names: a folder, or a file, on this machine.

    `part` is what of a repository is wanted: the transformer, or `vae`, `text_encoder`, `tokenizer`. Raises
    ValueError, with the way to get them, for weights that are not here and cannot be reached.
    """
    if not is_name(path):
        return Path(path)
    words = Path(path).as_posix()
    if words in NAMES:
        row = NAMES[words]
        words = row.transformer if part == TRANSFORMER else row.parts
    owner, name, *inside = words.split("/")
    return _fetched(f"{owner}/{name}", "/".join(inside), part)


def here(path: Path | str, part: str) -> Path | None:
    """The folder `part` of weights, or the one they are all in, if it is on this machine; the hub is not asked."""
    if is_name(path):
        words = Path(path).as_posix()
        owner, name, *inside = (NAMES[words].parts if words in NAMES else words).split("/")
        cached = _cached(f"{owner}/{name}")
        found = None if cached is None else cached.joinpath(*inside, part)
        return found if found and found.is_dir() else None
    folder = Path(path)
    return next((place for place in (folder / part, folder) if place.is_dir()), None)


def beside(path: Path | str) -> Path | None:
    """Where VAE and text encoder of weights come from if nobody says so: the same repository, if it has them."""
    words = Path(path).as_posix()
    if is_name(path):
        return Path(NAMES[words].parts) if words in NAMES else _with_parts(words)
    folder = Path(path)
    folder = folder.parent if folder.name == TRANSFORMER else folder
    return folder if (folder / "vae").is_dir() and (folder / "text_encoder").is_dir() else None


def _with_parts(words: str) -> Path | None:
    repo = "/".join(words.split("/")[:2])
    files = _listed(repo)
    if files is None:
        cached = _cached(repo)
        files = [] if cached is None else [file.relative_to(cached).as_posix() for file in cached.rglob("*")]
    return Path(repo) if any(file.startswith("vae/") for file in files) else None


@functools.cache
def _fetched(repo: str, inside: str, part: str) -> Path:
    """What is wanted of a repository, from the cache or the hub."""
    from huggingface_hub import snapshot_download
    from requests.exceptions import ConnectionError, Timeout

    files = _listed(repo)
    if files is None:
        return _from_cache(repo, inside, part)
    wanted = _wanted(files, inside, part)
    if not wanted:
        what = inside or ("weights of a transformer" if part == TRANSFORMER else f"a folder {part}")
        raise ValueError(f"{repo} on the hub has no {what} (it has {_few(files)}); look at its name")
    try:
        return Path(_asked(repo, partial(snapshot_download, repo, allow_patterns=wanted))) / inside
    except (ConnectionError, Timeout) as error:
        raise ValueError(
            f"the connection to the hub broke while {repo} came ({str(error)[:120]}); run it again: it goes on"
        ) from error


def _from_cache(repo: str, inside: str, part: str) -> Path:
    folder = _cached(repo)
    files = [] if folder is None else [file.relative_to(folder).as_posix() for file in folder.rglob("*")]
    if folder is None or not _wanted(files, inside, part):
        pattern = inside or ("" if part == TRANSFORMER else f"{part}/*")
        include = f" --include '{pattern}'" if pattern else ""
        what = f"{repo} ({inside or part})"
        raise ValueError(
            f"{what} is neither a path nor in the cache of this machine, and the hub cannot be reached: run "
            f"`huggingface-cli download {repo}{include} --local-dir FOLDER` where it can, and give FOLDER"
        )
    return folder / inside


def _wanted(files: Iterable[str], inside: str, part: str) -> list[str]:
    """The files of a repository that hold what is wanted; a transformer is a folder, or lies at the top."""
    files = list(files)
    if inside:
        return [file for file in files if file == inside or file.startswith(f"{inside}/")]
    folder = [file for file in files if file.startswith(f"{part}/")]
    if folder or part != TRANSFORMER:
        return [*folder, *(file for file in files if folder and file == "model_index.json")]
    top = [file for file in files if "/" not in file]
    found = next((some for end in WEIGHTS if (some := [file for file in top if file.endswith(end)])), [])
    return [*found, *(file for file in top if found and file.endswith(".json"))]


@functools.cache
def _listed(repo: str) -> list[str] | None:
    """The files of a repository as the hub lists them; None where it cannot be reached."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import OfflineModeIsEnabled
    from requests.exceptions import ConnectionError, Timeout

    try:
        if constants.HF_HUB_OFFLINE:
            return None
        return _asked(repo, lambda: HfApi().list_repo_files(repo))
    except (ConnectionError, Timeout, OfflineModeIsEnabled):
        return None


def _asked(repo: str, ask: Callable):
    """The hub's answer; its refusals as a sentence."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    try:
        return ask()
    except GatedRepoError as error:
        raise ValueError(
            f"{repo} is given to those who accept its terms: do so on its page, and run `huggingface-cli login`"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ValueError(
            f"{repo} is no path on this machine and no repository of the hub (or a private one: `huggingface-cli "
            f"login`); look at its name, or give one of {', '.join(NAMES)}"
        ) from error
    except HfHubHTTPError as error:
        raise ValueError(
            f"the hub does not give {repo} ({str(error).splitlines()[0]}); try again later"
        ) from error


def _cached(repo: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _few(files: list[str]) -> str:
    return ", ".join(files[:3]) + (", ..." if len(files) > 3 else "") if files else "nothing"

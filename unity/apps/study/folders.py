"""Folders of several models' videos: which clips they have in common, and what those should show.

A clip is a folder with the video that is looked for (rgb.mp4), as unity.infer, unity.jobs and answers to UniBench
are laid out, or else a video file by itself. Its name is its place in the model's folder.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from os.path import abspath, commonpath
from pathlib import Path, PurePosixPath

from unity.files import plain
from unity.jobs import FILMS

# of a model's folder that is itself the folder of one result
_ALONE = "video"


@dataclass(frozen=True, kw_only=True)
class Contestants:
    """Models by name, clips in common by name, and their files."""

    models: tuple[str, ...]
    clips: tuple[str, ...]
    prompts: tuple[str, ...]
    # model by model, each of all clips
    files: tuple[tuple[Path, ...], ...]


def contestants(folders: tuple[Path, ...], prompts: Path | None, view: str, most: int) -> Contestants:
    """All of them; ValueError for folders that do not match, and for clips made for different words."""
    names = _names(folders)
    found = [clips_of(folder, view) for folder in folders]
    _match(folders, found)
    every = sorted(found[0])
    count = min(most, len(every))
    clips = tuple(every[len(every) * place // count] for place in range(count))
    files = tuple(tuple(row[clip] for clip in clips) for row in found)
    told = _read_prompts(prompts, clips) if prompts else tuple(map(_beside, clips, zip(*files, strict=True)))
    return Contestants(models=names, clips=clips, prompts=told, files=files)


def clips_of(folder: Path, view: str = "rgb") -> dict[str, Path]:
    """A model's videos by name; ValueError where there is none."""
    if not folder.is_dir():
        raise ValueError(f"{plain(str(folder))} is no folder; give --models a folder of videos for each model")
    films, found = list(_films(folder)), {}
    results = {path.parent for path in films if path.stem in (view, "rgb")}
    for path in films:
        alone = path.parent not in results
        if path.stem == view or alone:
            place = path.relative_to(folder).with_suffix("") if alone else path.parent.relative_to(folder)
            name = plain(place.as_posix()) if place.parts else _ALONE
            if name in found:
                raise ValueError(f"{plain(str(folder))} has two videos of {name}; leave one in it")
            found[name] = path
    if not found:
        raise ValueError(
            f"{plain(str(folder))} holds no video {view}.mp4, nor any by itself; see docs/evaluate.md"
        )
    return found


def _films(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in FILMS and path.is_file() and not hidden:
            yield path


def _names(folders: tuple[Path, ...]) -> tuple[str, ...]:
    """The folders' own names, or, where two have one name, their places in what holds them all."""
    if len(folders) < 2:
        raise ValueError("--models names one folder; give two or more to compare")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError("--models names a folder twice; give each once")
    whole = [Path(abspath(folder)) for folder in folders]
    names = [folder.name for folder in whole]
    if len(set(names)) < len(names):
        names = [folder.relative_to(commonpath(whole)).as_posix() for folder in whole]
    return tuple(map(plain, names))


def _match(folders: tuple[Path, ...], found: list[dict[str, Path]]) -> None:
    for (one, here), (other, there) in permutations(zip(folders, found, strict=True), 2):
        if lacks := sorted(there.keys() - here.keys()):
            raise ValueError(
                f"{plain(str(one))} lacks {lacks[0]}, which {plain(str(other))} has ({len(lacks)} in all); let "
                f"all folders hold videos of the same names"
            )


def _beside(clip: str, files: tuple[Path, ...]) -> str:
    """What the models' own records say that a clip shows; "" where none does."""
    told = {words: path for path in reversed(files) if (words := _told(path))}
    if len(told) > 1:
        (one, first), (other, second) = list(told.items())[:2]
        raise ValueError(
            f"{plain(str(first))} was made for {one!r} and {plain(str(second))} for {other!r}; compare what was "
            f"made for the same words, or give --prompts"
        )
    return next(iter(told), "")


def _told(path: Path) -> str:
    """By run.json, caption.txt or NAME.txt beside a video."""
    record = path.parent / "run.json"
    if record.is_file():
        try:
            return str(json.loads(record.read_bytes()).get("prompt") or "").strip()
        except (ValueError, AttributeError):
            raise ValueError(f"{plain(str(record))} is damaged; make that clip again, or give --prompts") from None
    return next(
        (_words(text) for text in (path.with_suffix(".txt"), path.parent / "caption.txt") if text.is_file()), ""
    )


def _words(path: Path) -> str:
    return " ".join(path.read_text("utf-8-sig", errors="replace").split())


def _read_prompts(path: Path, clips: tuple[str, ...]) -> tuple[str, ...]:
    """What each clip should show; ValueError for one of which nothing is said."""
    lookup = (lambda clip: _in_folder(path, clip)) if path.is_dir() else _lines(path).get
    told = [lookup(clip) for clip in clips]
    if None in told:
        raise ValueError(f"{plain(str(path))} says nothing of {clips[told.index(None)]}; see --prompts")
    return tuple(map(str, told))


def _in_folder(folder: Path, clip: str) -> str | None:
    """NAME.txt, or caption.txt in the clip's place or above it, as UniBench lays its clips out."""
    above = [folder / place / "caption.txt" for place in (PurePosixPath(clip), *PurePosixPath(clip).parents)]
    return next((_words(text) for text in (folder / f"{clip}.txt", *above) if text.is_file()), None)


def _lines(path: Path) -> Mapping[str, str]:
    if not path.is_file():
        raise ValueError(f"there is no {plain(str(path))}; give --prompts a folder, or a file of JSON lines")
    told = {}
    for number, line in enumerate(path.read_text("utf-8-sig", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            given = json.loads(line)
            told[str(given.get("name", f"{number:05}"))] = str(given["prompt"])
        except (ValueError, AttributeError, KeyError):
            raise ValueError(
                f'line {number} of {plain(str(path))} tells no prompt; a line is {{"name": "a", "prompt": "..."}}'
            ) from None
    return told

"""A study's ballot: one SQLite file, in which a rater votes once on each comparison."""

import json
import secrets
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from unity.apps.base import Base
from unity.apps.study.design import Comparison, Design, asked
from unity.files import json_text, plain
from unity.typed import typed

# names in the folder of a study
BASE, VIDEOS, INVITATIONS = "study.sqlite", "videos", "invitations.txt"
# most raters where anybody may be one
MOST_RATERS = 10_000
# what SQLite keeps in the file's header: whose it is, and of which version
_MARK, _VERSION = 0x75767374, 1

_TABLES = """
pragma synchronous = full;
create table if not exists design (told text not null);
create table if not exists videos (id text primary key, clip integer not null, model integer not null);
create table if not exists raters (number integer primary key autoincrement, code text unique not null);
create table if not exists asks (
    rater integer not null,
    place integer not null,
    clip integer not null,
    shown text not null,
    videos text not null,
    given real,
    primary key (rater, place)
);
create table if not exists votes (
    rater integer not null,
    place integer not null,
    question text not null,
    choice integer,
    voted real not null,
    primary key (rater, place, question)
);
"""

# question → place of the chosen video on the page, from 0; None where none is better
Choices = Mapping[str, int | None]


class Blind(NamedTuple):
    """A video under its made-up name: of which clip, and which model or RUINED."""

    id: str
    clip: int
    model: int


class Ask(NamedTuple):
    """A comparison of a rater, the ids of its videos in order, and when it was given (seconds since 1970)."""

    place: int
    comparison: Comparison
    videos: list[str]
    given: float | None


class Ballot(NamedTuple):
    """An answered comparison."""

    rater: int
    ask: Ask
    choices: dict[str, int | None]
    voted: float


class Standing(NamedTuple):
    """Where a rater stands: comparisons done and in all, and the next one."""

    done: int
    total: int
    next: Ask | None


def create(path: Path, design: Design, videos: Iterable[Blind], codes: Iterable[str]) -> None:
    """A new ballot; `codes` of those who may vote, or none where anybody may."""
    with closing(
        Base(path, f"{_TABLES}pragma application_id = {_MARK}; pragma user_version = {_VERSION};")
    ) as base:
        base.run("insert into design values (?)", json_text(asdict(design), None))
        for video in videos:
            base.run("insert into videos values (?, ?, ?)", *video)
        for code in codes:
            base.run("insert into raters (code) values (?)", code)
        # one file, to be renamed
        base.run("pragma journal_mode = delete")


class Store:
    """Raters by code and their votes in a study's folder, usable from any thread.

    ValueError where there is no ballot, or one of something else.
    """

    def __init__(self, folder: Path):
        path = folder / BASE
        _check(path)
        try:
            self._base = Base(path, _TABLES)
            self._run = self._base.run
            told = self._run("select told from design")[0][0]
            if (why := self._run("pragma quick_check")[0][0]) != "ok":
                raise sqlite3.DatabaseError(why)
        except (sqlite3.DatabaseError, IndexError) as error:
            raise ValueError(f"{plain(str(path))} is damaged: {error}; bring a copy back") from None
        self.design = typed(Design, json.loads(told))
        self._ids: dict[tuple[int, int], list[str]] = {}
        for name, clip, model in self._run("select id, clip, model from videos"):
            self._ids.setdefault((clip, model), []).append(name)

    def videos(self) -> set[str]:
        """All made-up names."""
        return {name for names in self._ids.values() for name in names}

    def enter(self) -> str:
        """The code of a new rater; ValueError where none may come."""
        with self._base.whole():
            if self.design.invite:
                raise ValueError("this study is for those who were invited; open the address that you were sent")
            if self._run("select count(*) from raters")[0][0] >= MOST_RATERS:
                raise ValueError("this study has as many raters as it can have; thank you all the same")
            code = secrets.token_hex(6)
            self._run("insert into raters (code) values (?)", code)
            return code

    def standing(self, code: str) -> Standing:
        """What a rater did, and is asked next, which counts as given. Raises KeyError for no rater's code."""
        with self._base.whole():
            rater = self._rater(code)
            asks = self._asks(rater)
            done = {row[0] for row in self._run("select distinct place from votes where rater = ?", rater)}
            following = next((ask for ask in asks if ask.place not in done), None)
            if following and following.given is None:
                now = time.time()
                self._run("update asks set given = ? where rater = ? and place = ?", now, rater, following.place)
                following = following._replace(given=now)
            return Standing(len(done), len(asks), following)

    def vote(self, code: str, place: int, choices: Choices) -> None:
        """Keep a rater's vote, all questions at once; said twice, it counts once.

        Raises KeyError for what the rater was not given, ValueError for a vote that is none, or another one.
        """
        with self._base.whole():
            rater = self._rater(code)
            ask = next((ask for ask in self._asks(rater) if ask.place == place and ask.given is not None), None)
            if ask is None:
                raise KeyError(place)
            self._check_choices(choices, len(ask.videos))
            there = self._run("select question, choice from votes where rater = ? and place = ?", rater, place)
            if there and dict(map(tuple, there)) != dict(choices):
                raise ValueError("you voted on this comparison already, and a vote stays as it is")
            now = time.time()
            for question, choice in {} if there else choices.items():
                self._run("insert into votes values (?, ?, ?, ?, ?)", rater, place, question, choice, now)

    def _check_choices(self, choices: Choices, count: int) -> None:
        within = all(choice is None or 0 <= choice < count for choice in choices.values())
        if choices.keys() != {*self.design.questions} or not within:
            raise ValueError(
                f"a vote answers {', '.join(self.design.questions)}, each by 0 to {count - 1} or null"
            )

    def ballots(self) -> list[Ballot]:
        """All votes, by rater and place."""
        asks: dict[int, dict[int, Ask]] = {}
        found: dict[tuple[int, int], Ballot] = {}
        rows = self._run("select rater, place, question, choice, voted from votes order by rater, place, rowid")
        for rater, place, question, choice, voted in rows:
            if rater not in asks:
                asks[rater] = {ask.place: ask for ask in self._asks(rater)}
            ballot = found.setdefault((rater, place), Ballot(rater, asks[rater][place], {}, voted))
            ballot.choices[question] = choice
        return list(found.values())

    def raters(self) -> int:
        """Those who came."""
        return self._run("select count(distinct rater) from asks")[0][0]

    def close(self) -> None:
        self._base.close()

    def _rater(self, code: str) -> int:
        rows = self._run("select number from raters where code = ?", code)
        if not rows:
            raise KeyError(code)
        return rows[0][0]

    def _asks(self, rater: int) -> list[Ask]:
        """A rater's comparisons, which are chosen when they are first wanted."""
        words = "select place, clip, shown, videos, given from asks where rater = ? order by place"
        rows = self._run(words, rater) or (self._choose(rater), self._run(words, rater))[1]
        return [
            Ask(place, Comparison(clip, tuple(json.loads(shown))), json.loads(videos), given)
            for place, clip, shown, videos, given in rows
        ]

    def _choose(self, rater: int) -> None:
        seen: dict[tuple[int, tuple[int, ...]], int] = {}
        for clip, shown in self._run("select clip, shown from asks"):
            alike = Comparison(clip, tuple(json.loads(shown))).alike
            seen[alike] = seen.get(alike, 0) + 1
        for place, one in enumerate(asked(self.design, rater, seen)):
            # copies of one model's video in turn
            ids = {model: iter(self._ids[one.clip, model]) for model in one.shown}
            videos = [next(ids[model]) for model in one.shown]
            self._run(
                "insert into asks values (?, ?, ?, ?, ?, null)",
                rater, place, one.clip, json.dumps(one.shown), json.dumps(videos),
            )  # fmt: skip


def _check(path: Path) -> None:
    """ValueError for a file that is no ballot of this version, by its header: opening it might change it."""
    if not path.is_file():
        raise ValueError(f"{plain(str(path.parent))} holds no study; make one with --models, or give its --out")
    with path.open("rb") as file:
        header = file.read(100)
    if not header.startswith(b"SQLite format 3\0") or len(header) < 100:
        raise ValueError(f"{plain(str(path))} is no SQLite file; give another --out")
    version, mark = int.from_bytes(header[60:64]), int.from_bytes(header[68:72])
    if (mark, version) != (_MARK, _VERSION):
        raise ValueError(f"{plain(str(path))} is of something else, or another version; give another --out")

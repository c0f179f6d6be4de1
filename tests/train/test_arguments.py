"""Whatever stands on the train command line is valid or a sentence with code 2, and --help states bounds."""

import dataclasses
import itertools
import json
import re
import typing

import pytest

from unity.command import Bounds, check_bounds
from unity.train.config import parse
from unity.train.config_file import to_plain
from unity.train.options import Options


def numbers(kind: type, prefix: str = "") -> dict[str, int]:
    """Flag of every number → how many it takes."""
    found = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        flag = prefix + name.replace("_", "-")
        if dataclasses.is_dataclass(hint):
            found |= numbers(hint, flag + ".")
        elif bounded := _bounded(hint):
            found["--" + flag] = bounded
        else:
            assert not _numeric(hint), f"{flag} is a number without bounds"
    return found


def _bounded(hint) -> int:
    if any(isinstance(mark, Bounds) for mark in getattr(hint, "__metadata__", ())):
        return 1
    return sum(map(_bounded, typing.get_args(hint)))


def _numeric(hint) -> bool:
    if typing.get_origin(hint) is typing.Literal:
        return False
    return hint in (int, float) or any(map(_numeric, typing.get_args(hint)))


FLAGS = numbers(Options)
VALUES = ("nan", "inf", "-inf", "-1", "0", "1", "1e400", "1e18", "9" * 400, "0x10", "", "x", "1.5", "-0.0", "²")


# each of another kind; the rest are more of the same
TELLING = {"nan", "-1", "1e18"}


def _given():
    for flag, value in itertools.product(FLAGS, VALUES):
        yield pytest.param(flag, value, marks=[] if value in TELLING else [pytest.mark.slow])


@pytest.mark.parametrize(("flag", "value"), _given())
def test_any_number_is_taken_or_refused_in_a_sentence(flag, value, capsys):
    args = ["--model", "debug", flag, *[value] * FLAGS[flag]]
    try:
        options = parse(args)
    except SystemExit as refused:
        told = capsys.readouterr().err
        # settings that do not go together are named as the file of the configuration has them
        assert refused.code == 2 and (flag in told or flag.split(".")[-1].strip("-").replace("-", "_") in told)
    except ValueError as refused:
        assert 10 < len(str(refused)) < 600 and "\n" not in str(refused)
    else:
        check_bounds(options)
        # what is taken is JSON that every reader accepts
        json.dumps(to_plain(options), allow_nan=False)


def test_help_states_the_bounds_of_every_number(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    for flag in FLAGS:
        assert re.search(rf"{re.escape(flag)} [^-]*?(None\|)?\{{?>?-?[\d.e+]+\.\.", shown), flag


STRANGE = [
    ["--precision", "fp64"], ["--model", ""], ["--stage", "0"], ["--device", "gpu"], ["--out"], ["--size", "64"],
    ["--size", "64", "64", "64"], ["--optim.schedule", "linear"], ["extra"], ["--resume"], ["--optim", "3"],
]  # fmt: skip


@pytest.mark.parametrize("args", STRANGE, ids=" ".join)
def test_what_is_no_option_ends_with_code_2(args, capsys):
    with pytest.raises(SystemExit) as refused:
        parse(args)
    assert refused.value.code == 2 and capsys.readouterr().err

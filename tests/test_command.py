"""Numbers have bounds that --help states, and no command ends in a traceback."""

import errno
import re
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Annotated

import pytest
import tyro

from unity.command import check_bounds, end, real, whole


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: Annotated[float, real(0, 1, above=True)] = 0.5


@dataclass(frozen=True, kw_only=True)
class Options:
    steps: Annotated[int, whole(1, 1000)] = 50
    guidance: Annotated[float, real(0, 100)] = 7.5
    seed: Annotated[int, whole(0)] = 0
    weight: Annotated[float, real(0)] = 1.0
    frames: Annotated[int | None, whole(1, 9)] = None
    limit: Annotated[int, whole(1, 9)] | None = None
    size: tuple[Annotated[int, whole(1, 4096)], Annotated[int, whole(1, 4096)]] | None = None
    many: tuple[Annotated[int, whole(1, 5)], ...] = ()
    inner: Inner = field(default_factory=Inner)


GOOD = {
    "steps": (1, 1000), "guidance": (0.0, 1.0, 100.0), "seed": (0, 2**53), "weight": (0.0, 1e300),
    "frames": (1, 9), "limit": (None, 1, 9), "size": (None, (1, 4096)), "many": ((1, 5, 3), ()),
    "inner": (Inner(rate=1.0),),
}  # fmt: skip
NAN, INF = float("nan"), float("inf")
BAD = {
    "steps": (0, -3, 1001, NAN), "guidance": (NAN, INF, -INF, -0.1, 100.5), "seed": (-1, 2**53 + 1),
    "weight": (NAN, INF, -1.0), "frames": (0, 10), "limit": (0, 10), "size": ((0, 1), (1, 4097)),
    "many": ((1, 2, 6),), "inner": (Inner(rate=0.0), Inner(rate=NAN), Inner(rate=1.1)),
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, row in GOOD.items() for value in row])
def test_numbers_inside_their_bounds_pass(name, value):
    check_bounds(Options(**{name: value}))


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, row in BAD.items() for value in row])
def test_numbers_outside_are_named_with_their_bounds(name, value):
    with pytest.raises(ValueError, match=rf"{'rate' if name == 'inner' else name} is .*; give --.* a number"):
        check_bounds(Options(**{name: value}))


def test_help_states_the_bounds_and_the_command_line_reads_them(capsys):
    words = "--steps 7 --guidance 2 --frames 5 --limit 3 --size 64 32 --many 1 2 --inner.rate 0.25"
    read = tyro.cli(Options, args=words.split())
    wanted = {"steps": 7, "guidance": 2.0, "frames": 5, "limit": 3, "size": (64, 32), "many": (1, 2)}
    assert read == Options(**wanted, inner=Inner(rate=0.25))
    assert tyro.cli(Options, args=[]) == Options()
    with pytest.raises(SystemExit):
        tyro.cli(Options, args=["--help"])
    shown = capsys.readouterr().out
    for bounds in ("--steps 1..1000", "--guidance 0..100", "--seed 0..", "--inner.rate >0..1", "1..4096 1..4096"):
        assert bounds in shown, shown


@pytest.mark.parametrize("value", ["x", "", "1.5", "1e3", "0x1", "9" * 5000])
def test_what_is_no_number_is_refused(value, capsys):
    with pytest.raises(SystemExit) as stop:
        tyro.cli(Options, args=["--steps", value])
    assert stop.value.code == 2 and "--steps" in capsys.readouterr().err


ENDS = {
    "user": ("ValueError('steps is 0;\\n give more')", 2, "x: steps is 0; give more"),
    "disk": (
        f"OSError({errno.ENOSPC}, 'No space left on device', '/data/a')",
        2,
        "x: /data/a: No space left.*; make",
    ),
    "rights": (f"OSError({errno.EACCES}, 'Permission denied', '/a')", 2, "x: /a: Permission denied; ask"),
    "memory": ("MemoryError()", 2, "x: there is not enough memory; ask for"),
    "interrupt": ("KeyboardInterrupt()", 130, "x: interrupted"),
    "reader left": ("BrokenPipeError()", 141, "^$"),
    "fault": ("KeyError('a')", 1, "x: a fault of this program, KeyError: 'a'"),
    "missing": ("ModuleNotFoundError('No module named \\'mujoco\\'')", 2, "x: No module named 'mujoco'; install"),
    "surrogate": ("UnicodeEncodeError('utf-8', '\\udce9', 0, 1, 'no')", 1, "x: a fault of this program, Unicode"),
}


@pytest.mark.parametrize("name", ENDS)
def test_every_end_is_one_sentence_and_its_code(name, monkeypatch, capsys):
    error, code, said = ENDS[name]

    def main():
        raise eval(error)

    monkeypatch.delenv("UNITY_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as stop:
        end("x", main)
    told = capsys.readouterr().err
    assert stop.value.code == code and re.search(said, told) and told.count("\n") <= 1


def run(program, **options):
    command = [sys.executable, "-c", f"from unity.command import end\n{program}"]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_a_command_that_is_done_returns():
    done = run("end('x', lambda: print('done'))")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_no_character_ends_a_command():
    done = run(r"end('x', lambda: print('\udce9 \u4e2d é'))", env={"PYTHONIOENCODING": "ascii:strict"})
    assert done.returncode == 0 and done.stdout == "\\udce9 \\u4e2d \\xe9\n"


@pytest.mark.parametrize("reader", ["head -c 0", "true"])
def test_nobody_reading_is_no_traceback(reader):
    program = "from unity.command import end; end('x', lambda: [print('y' * 100) for _ in range(10000)])"
    shell = f'{{ {sys.executable} -c "{program}"; echo $? >&2; }} | {reader}'
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert done.stderr.strip() == "141"


def test_a_full_disk_behind_stdout_is_a_sentence():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", "from unity.command import end; end('x', lambda: print('y'))"],
            stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 2 and "No space left" in done.stderr and "Traceback" not in done.stderr


def test_closed_streams_are_no_fault():
    shell = f"{sys.executable} -c \"from unity.command import end; end('x', lambda: print('y'))\" >&- 2>&-"
    assert subprocess.run(["bash", "-c", shell]).returncode == 0

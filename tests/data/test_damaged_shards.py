"""Damaged and hostile datasets: what is read is exactly what was written, or one sentence says what is wrong.

A dataset of format 2 notices every changed byte by its hashes; the tables below also give every lie its right
hashes (as a hostile dataset would have), and tell the lies to a dataset of format 1, which has none.
"""

import contextlib
import functools
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from unity.config import StageConfig
from unity.data import loader
from unity.data.clips import MODALITY_NAMES, Clip
from unity.data.decoding import decode, opened
from unity.data.ivf import told_size
from unity.data.shards import encode_clip, index, open_shards, read_about, read_clip, write_shards
from unity.data.shards.columns import CHECKSUM, SUMS, _checksum, _sums, to_bytes
from unity.data.video import encode

FORMAT_1 = Path(__file__).with_name("format1")
SOURCES = ("general", "subject")


def _clip(number, source):
    t, y, x = np.mgrid[:5, :16, :24]
    waves = [np.sin((x + t * c + number * 3) / 5) + np.cos(y / 4) for c in (1, 2, 3)]
    video = (127 + 60 * np.stack(waves, -1)).astype(np.uint8)
    return Clip(
        name=f"clip-{number}",
        source=source,
        caption=f"a ball, the {number}th, “orange”",
        fps=16.0,
        video={"rgb": video, "flow": 255 - video} | ({"depth": video[..., ::-1]} if number else {}),
        constants={"depth": {"near": 0.5, "far": 0.0}, "flow": {"scale": 3.6}},
        values={"flow": np.stack([x - t, y + t], -1).astype(np.float32)},
        meta={"seed": number},
    )


@pytest.fixture(scope="module")
def format_2(tmp_path_factory):
    clips = [_clip(0, "general"), _clip(1, "subject"), _clip(2, "general")]
    return write_shards(clips, tmp_path_factory.mktemp("whole") / "data", values=True, seed=7)


def _read(folder):
    """All that a run would take from a dataset."""
    shards = open_shards(folder)
    table = {source: flags.tolist() for source, flags in shards.available.items()}
    samples = {s: [shards.sample(s, i) for i in range(n)] for s, n in shards.counts.items()}
    values = {s: [shards.clip(s, i, ("flow",)).values for i in range(n)] for s, n in shards.counts.items()}
    return shards.about, table, samples, repr(values)


def _sentence(error):
    text = str(error.value)
    assert text and "\n" not in text and len(text) < 2000, text
    return text


# What is said of a dataset, changed in one place: "a.b.0" → new value (or a function of the old one), or DROPPED.
DROPPED = object()
LIES = {
    "dataset.json": {
        "frames": [0, -5, 6, 5.0, True, "5", None, 1 << 40, DROPPED],
        "size": [[16], [16, 25], [24, 16], [0, 24], [1 << 30, 1 << 30], "16", None, {}, DROPPED],
        "fps": [0, -1.0, 8.0, "16", None, 1e300, DROPPED],
        "seed": ["7", 1.5, []],
        "sources": [[], {}, None, "general", DROPPED],
        "sources.general": [None, [], 3],
        "sources.general.count": [0, 1, 3, -2, 2.0, "2", 1 << 60, None, DROPPED],
        "sources.general.modalities": [[], ["depth"], ["normals"], None, DROPPED],
        "sources.general.available": [
            [],
            None,
            [[2, ["flow", "depth"]]],
            [[2]],
            [[1 << 60, ["flow"]]],
            5,
            DROPPED,
        ],
        "sources.general.available.0.0": [0, -1, "1", 1 << 40, 1.0],
        "sources.general.available.0.1": [["segmentation"], ["normals"], "flow", None, [["flow"]], [1]],
        "sources.people": [{"count": 1, "modalities": [], "available": [[1, []]]}],
        "encoding": ["pkl"],
    },
    "general/index.json": {
        "version": [1, 3, "2", None, DROPPED],
        "shards": [[], None, {}, [[]], [None], "shard.00000.mds", lambda rows: rows * 2, DROPPED],
        "shards.0.version": [1, None, DROPPED],
        "shards.0.format": ["csv", "json", "pkl", None, DROPPED],
        "shards.0.compression": ["zstd", "gz:9"],
        "shards.0.zip_data": [{"basename": "shard.00000.mds.zstd", "bytes": 10, "hashes": {}}],
        "shards.0.samples": [0, 1, 3, -1, 2.0, "2", None, True, 1 << 40, 10_000, DROPPED],
        "shards.0.raw_data": [None, [], "shard.00000.mds", DROPPED],
        "shards.0.raw_data.bytes": [0, 1, -1, None, "9", 7 << 40, lambda size: size + 1, DROPPED],
        "shards.0.raw_data.basename": [
            "../subject/shard.00000.mds",
            "..",
            ".",
            "",
            "/etc/passwd",
            "/dev/zero",
            "shard.00001.mds",
            "shard.00000.mds/",
            "sub/shard.00000.mds",
            "shard.00000.mds\0",
            "index.json",
            7,
            None,
            DROPPED,
        ],
        "shards.0.column_names": [[], None, lambda names: names[:-1], lambda names: names[::-1], DROPPED],
        "shards.0.column_names.0": ["prompt", "../caption", None, []],
        "shards.0.column_encodings": [[], None, lambda kinds: kinds[1:], DROPPED],
        "shards.0.column_encodings.0": ["pkl", "bytes", "json", "str_int", "ndarray:float64:1000000000", None, 3],
        "shards.0.column_encodings.1": ["pkl", "str", "list[png]"],
        "shards.0.column_encodings.2": ["pkl", "uint64", "float32"],
        "shards.0.column_sizes": [[], None, DROPPED],
        "shards.0.column_sizes.0": [4, -1, 1 << 40, "4"],
        "shards.0.column_sizes.2": [None, 8, 0, 1 << 40],
        "shards.0.trust": [True],
    },
}
CASES = [(file, place, change) for file, lies in LIES.items() for place, all in lies.items() for change in all]


def _lie(folder, file, place, change):
    path = folder / file
    whole = json.loads(path.read_text())
    before = json.dumps(whole)
    *way, last = (int(part) if part.isdigit() else part for part in place.split("."))
    table = whole
    for part in way:
        table = table[part]
    if change is DROPPED:
        del table[last]
    else:
        table[last] = change(table[last]) if callable(change) else change
    path.write_text(json.dumps(whole))
    return json.dumps(whole) != before


def _sealed_again(folder):
    """dataset.json with the hashes that its lies deserve."""
    record = json.loads((folder / "dataset.json").read_text())
    about = {key: value for key, value in record.items() if key not in ("format", "indexes", "sha256")}
    # some lies are such that there is nothing to hash
    with contextlib.suppress(KeyError, TypeError, OSError), mock.patch.object(index, "_check_about"):
        index.seal(folder, about)


@pytest.mark.parametrize("kind", ["format 1", "format 2", "format 2 with right hashes"])
def test_every_lie_of_an_index_is_refused(tmp_path, format_2, kind):
    # sets of columns differ between the formats, so one lie or another is true of one of them
    whole = FORMAT_1 if kind == "format 1" else format_2
    for number, (file, place, change) in enumerate(CASES):
        folder = Path(shutil.copytree(whole, tmp_path / str(number)))
        if not _lie(folder, file, place, change):
            continue
        if kind.endswith("hashes"):
            _sealed_again(folder)
        try:
            _read(folder)
        except ValueError as error:
            text = str(error)
            assert text.count("\n") == 0 and len(text) < 2000, text
        else:
            pytest.fail(f"{kind}: {file} may say {change} at {place}")
    assert len(CASES) > 150


@pytest.mark.parametrize("file", ["dataset.json", "general/index.json"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "null",
        "3",
        '"x"',
        "NaN",
        '{"frames": NaN}',
        "[" * 100_000,
        "\0" * 100,
        "\ufeff{}",
        "{}{}",
    ],
)
def test_what_is_no_index_is_refused(tmp_path, format_2, file, text):
    folder = Path(shutil.copytree(format_2, tmp_path / "data"))
    (folder / file).write_text(text)
    with pytest.raises(ValueError, match="json is damaged") as error:
        _read(folder)
    _sentence(error)


def _resized(number):
    return lambda data: data[:number] + struct.pack("<I", 1 << 31) + data[number + 4 :]


SHARD_DAMAGES = {
    "empty": lambda data: b"",
    "cut": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "no samples": lambda data: bytes(4) + data[4:],
    "many samples": lambda data: struct.pack("<I", 1 << 31) + data[4:],
    "first offset": _resized(4),
    "second offset": _resized(8),
    "last offset": _resized(12),
    "backwards": lambda data: data[:8] + data[4:8] + data[12:],
    "nothing but zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("damage", SHARD_DAMAGES)
@pytest.mark.parametrize("kind", [1, 2])
def test_a_damaged_shard_is_refused(tmp_path, format_2, damage, kind):
    folder = Path(shutil.copytree(format_2 if kind == 2 else FORMAT_1, tmp_path / "data"))
    file = folder / "general" / "shard.00000.mds"
    file.write_bytes(SHARD_DAMAGES[damage](file.read_bytes()))
    with pytest.raises(ValueError, match="shard.00000.mds is damaged") as error:
        _read(folder)
    _sentence(error)


# of each file
FLIPS = 100


def test_no_flipped_byte_is_read(tmp_path, format_2):
    """Flips of one bit, of one byte and of a stretch, everywhere in a small dataset."""
    folder, random = Path(shutil.copytree(format_2, tmp_path / "data")), np.random.default_rng(0)
    truth, refused, files = _read(folder), 0, sorted(p for p in folder.rglob("*") if p.is_file())
    for file in files:
        whole = file.read_bytes()
        for at in random.choice(len(whole), min(len(whole), FLIPS), replace=False):
            flip = [1 << random.integers(8), random.integers(1, 256)][random.integers(2)]
            changed = bytearray(whole)
            for place in range(at, min(len(whole), at + random.choice([1, 1, 1, 4, 40]))):
                changed[place] ^= flip
            file.write_bytes(changed)
            try:
                assert _read(folder) == truth, f"{file.name} is read otherwise with byte {at} flipped"
            except ValueError as error:
                refused += 1
                assert "\n" not in str(error)
        file.write_bytes(whole)
    assert _read(folder) == truth and refused > 0.8 * FLIPS * len(files)


@pytest.mark.slow
def test_flipped_bytes_of_format_1_never_change_a_video(tmp_path):
    folder, random = Path(shutil.copytree(FORMAT_1, tmp_path / "data")), np.random.default_rng(0)

    def videos():
        shards = open_shards(folder)
        samples = [shards.sample(s, i) for s in SOURCES for i in range(shards.counts[s])]
        return [{key: value for key, value in sample.items() if isinstance(value, bytes)} for sample in samples]

    truth = videos()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        whole = file.read_bytes()
        for at in random.choice(len(whole), min(len(whole), 100), replace=False):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << random.integers(8)]) + whole[at + 1 :])
            try:
                assert videos() == truth
            except ValueError as error:
                assert "\n" not in str(error)
        file.write_bytes(whole)


def test_a_dataset_of_format_1_is_read_and_said_once(caplog, tmp_path):
    folder = shutil.copytree(FORMAT_1, tmp_path / "old")
    about, table, samples, _ = _read(folder)
    assert (about["frames"], about["size"], about["seed"]) == (5, [16, 24], 7)
    assert table["general"] == [[True, True, False, False, False]] * 2
    assert [sample["caption"] for sample in samples["general"]] == [
        "a ball, the 0th, “orange”", "a ball, the 2th, “orange”",
    ]  # fmt: skip
    clip = read_clip(samples["subject"][0])
    t, y, x = np.mgrid[:5, :16, :24]
    np.testing.assert_array_equal(clip.values["depth"][:, 1:], (2 + x + y + t).astype(np.float32)[:, 1:])
    assert np.isinf(clip.values["depth"][:, 0]).all()
    assert sum("format 1" in record.message for record in caplog.records) == 1


def test_an_unknown_format_is_not_guessed_at(tmp_path, format_2):
    folder = Path(shutil.copytree(format_2, tmp_path / "data"))
    _lie(folder, "dataset.json", "format", 3)
    with pytest.raises(ValueError, match="its format is 3, this program reads 1 and 2"):
        read_about(folder)


@pytest.mark.parametrize("name", ["dataset.json", "general", "general/index.json", "general/shard.00000.mds"])
def test_links_out_of_the_folder_are_refused(tmp_path, format_2, name):
    folder = Path(shutil.copytree(format_2, tmp_path / "data"))
    moved = (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(moved)
    with pytest.raises(ValueError, match="leads out of the dataset's folder: copy"):
        _read(folder)


def test_links_within_and_to_the_folder_are_followed(tmp_path, format_2):
    folder = Path(shutil.copytree(format_2, tmp_path / "data"))
    (folder / "blob").hardlink_to(folder / "general" / "shard.00000.mds")
    (folder / "general" / "shard.00000.mds").unlink()
    (folder / "general" / "shard.00000.mds").symlink_to("../blob")
    (tmp_path / "link").symlink_to(folder)
    assert _read(tmp_path / "link") == _read(format_2)


@pytest.mark.parametrize("name", ["dataset.json", "general/index.json", "general/shard.00000.mds"])
def test_pipes_and_folders_are_not_waited_for(tmp_path, format_2, name):
    for make in (os.mkfifo, os.mkdir):
        folder = Path(shutil.copytree(format_2, tmp_path / make.__name__))
        (folder / name).unlink()
        make(folder / name)
        with pytest.raises(ValueError, match="is damaged"):
            _read(folder)


class _Runs:
    def __reduce__(self):
        return os.mkdir, (os.environ["RAN"],)


def _resample(folder, change):
    """The general clips with every column in a hostile writer's hand, and all hashes right."""
    shards = open_shards(folder)
    samples = [dict(shards.sample("general", i)) for i in range(2)]
    parts = [change(to_bytes(sample)) for sample in samples]
    names = sorted(parts[0])
    for part in parts:
        part[SUMS] = _sums(part)
        part[CHECKSUM] = _checksum(part).to_bytes(4, "little")
    heads = [
        struct.pack(f"<{len(names) - 2}I", *(len(p[n]) for n in names if n not in ("fps", CHECKSUM)))
        for p in parts
    ]
    data = [head + b"".join(part[n] for n in names) for head, part in zip(heads, parts, strict=True)]
    offsets = np.cumsum([16, *map(len, data)]).astype("<u4")
    file = folder / "general" / "shard.00000.mds"
    file.write_bytes(struct.pack("<I", 2) + offsets.tobytes() + b"".join(data))
    _lie(folder, "general/index.json", "shards.0.raw_data.bytes", file.stat().st_size)
    _sealed_again(folder)


@functools.cache
def _bomb(size):
    stream, data = zlib.compressobj(9), io.BytesIO()
    for _ in range(size >> 20):
        data.write(stream.compress(bytes(1 << 20)))
    return data.getvalue() + stream.flush()


def _npy(header, data=b""):
    text = repr(header).encode().ljust(117) + b"\n"
    return zlib.compress(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data)


def _header(shape, kind="<f4"):
    return {"descr": kind, "fortran_order": False, "shape": shape}


def _wide(data):
    return data[:12] + struct.pack("<HH", 16_383, 16_383) + data[16:]


def _packets(data):
    """The frames in an IVF container."""
    at, packets = 32, []
    while at < len(data):
        size = struct.unpack_from("<I", data, at)[0]
        packets.append(data[at + 12 : at + 12 + size])
        at += 12 + size
    return packets


def _ivf(head, packets):
    """The same container around other frames."""
    frames = [struct.pack("<IQ", len(packet), number) + packet for number, packet in enumerate(packets)]
    return head[:32] + b"".join(frames)


def _bits(*fields):
    """(value, number of bits) one after the other, filled up to whole bytes and with what may follow a header."""
    text = "".join(f"{value:0{count}b}" for value, count in fields)
    return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8)) + bytes(8)


EDGE = 16_384 - 1
# headers of VP9 (section 6.2 of its specification): marker, profile 1, nothing shown again; then the kind of frame
_START = ((2, 2), (1, 1), (0, 1), (0, 1))
_COLOURS = ((0x498342, 24), (7, 3), (0, 1))
_HUGE = ((EDGE, 16), (EDGE, 16))
VP9 = {
    "a key frame": _bits(*_START, (0, 1), (1, 1), (0, 1), *_COLOURS, *_HUGE),
    "a key frame of luma": _bits(*_START, (0, 1), (1, 1), (0, 1), (0x498342, 24), (1, 3), (1, 1), (0, 3), *_HUGE),
    "a key frame of profile 0": _bits(
        (2, 2), (0, 2), (0, 1), (0, 1), (1, 1), (0, 1), (0x498342, 24), (1, 3), (0, 1), *_HUGE
    ),
    "a hidden frame": _bits(*_START, (1, 1), (0, 1), (0, 1), (1, 1), (0, 2), *_COLOURS, (255, 8), *_HUGE),
    "a hidden frame of profile 0": _bits(
        (2, 2), (0, 2), (0, 1), (1, 1), (0, 1), (0, 1), (1, 1), (0, 2), (0x498342, 24), (255, 8), *_HUGE
    ),
    "a frame after others": _bits(
        *_START, (1, 1), (1, 1), (0, 1), (0, 2), (1, 8), (0, 4), (2, 4), (4, 4), (0, 3), *_HUGE
    ),
    "a resilient frame after others": _bits(
        *_START, (1, 1), (1, 1), (1, 1), (1, 8), (0, 4), (2, 4), (4, 4), (0, 3), *_HUGE
    ),
}  # fmt: skip


def _superframe(*parts):
    sizes = b"".join(struct.pack("<H", len(part)) for part in parts)
    marker = bytes([0b110_01_000 | len(parts) - 1])
    return b"".join(parts) + marker + sizes + marker


def _huge_from(number, frame):
    """A video whose frames are those of ours, but for the one of that number."""
    return lambda old: _ivf(old, [frame if i == number else packet for i, packet in enumerate(_packets(old))])


def _hides(frame):
    return lambda old: _ivf(old, [_superframe(packet, frame) for packet in _packets(old)])


def _grows(old):
    """Two frames of ours, then three of a whole film of another size."""
    larger = encode(np.zeros((3, 160, 240, 3), np.uint8), 16.0)
    return _ivf(old, _packets(old)[:2] + _packets(larger))


HOSTILE = {
    "bomb of values": {"flow_values": lambda old: _bomb(1 << 30)},
    "values that say a terabyte": {"flow_values": lambda old: _npy(_header((1 << 38,)))},
    "values of a negative shape": {"flow_values": lambda old: _npy(_header((-1, -4)), bytes(16))},
    "values of objects": {"flow_values": lambda old: _npy(_header((1,), "|O"), pickle.dumps(_Runs()))},
    "values of no bytes": {"flow_values": lambda old: _npy(_header((1 << 50,), "|V0"))},
    "values cut": {"flow_values": lambda old: old[:-5]},
    "values with more behind": {"flow_values": lambda old: old + b"more"},
    "values that are a pickle": {"flow_values": lambda old: zlib.compress(pickle.dumps(_Runs()))},
    "a wide video": {"rgb": _wide},
    **{f"{name} that is huge, first": {"rgb": _huge_from(0, frame)} for name, frame in VP9.items()},
    **{f"{name} that is huge, later": {"flow": _huge_from(2, frame)} for name, frame in VP9.items()},
    **{f"{name} that is huge, in a superframe": {"rgb": _hides(frame)} for name, frame in VP9.items()},
    "frames that grow": {"rgb": _grows},
    "a video of 12 bits": {"flow": _huge_from(0, _bits((2, 2), (3, 2), (0, 8)))},
    "frames of another codec": {"flow": _huge_from(1, b"\0\0\0\1\x67" + bytes(20))},
    "frames of no bytes": {"flow": lambda old: _ivf(old, [b""] * 5)},
    "no frame that later ones follow": {"rgb": lambda old: _ivf(old, [_packets(old)[1]] * 5)},
    "another container": {"rgb": lambda old: b"RIFF" + old[4:]},
    "no video": {"rgb": lambda old: b""},
    "a long video": {"flow": lambda old: old + (b"\1\0\0\0" + bytes(8) + b"\0") * 1_000_000},
    "a frame that goes on": {"flow": lambda old: old[:32] + b"\xff\xff\xff\xff" + old[36:]},
    "a video too many": {"segmentation": lambda old: _example()["rgb"]},
    "a video missing": {"flow": lambda old: b""},
    "no text": {"caption": lambda old: b"\xff\xfe\xff"},
    "another source": {"source": lambda old: b"subject"},
    "another speed": {"fps": lambda old: struct.pack("<d", float("nan"))},
    "no table": {"constants": lambda old: b"[]"},
    "a pickle for a table": {"meta": lambda old: pickle.dumps(_Runs())},
    "a deep table": {"meta": lambda old: b"[" * 200_000},
    "no number": {"constants": lambda old: b'{"depth": {"near": NaN, "far": 0}}'},
    "another modality's constants": {"constants": lambda old: b'{"normals": {}}'},
    "constants that are none": {"constants": lambda old: b'{"depth": ["near"], "flow": 3}'},
}


def _example():
    return encode_clip(_clip(0, "general"))


def refuse_hostile(folder, name):
    """Run under a limit of memory: the sentence that a hostile dataset is refused with."""
    change = HOSTILE[name]
    _resample(Path(folder), lambda parts: parts | {key: make(parts[key]) for key, make in change.items()})
    try:
        shards = open_shards(folder)
        for index in range(2):
            shards.clip("general", index)
    except ValueError as error:
        return str(error)
    raise AssertionError(f"{name} is read")


@pytest.mark.slow
def test_a_hostile_writer_is_refused_in_little_memory(tmp_path, format_2):
    """All hashes right, contents that lie: in a process that may take no more than 2 GB, and takes a tenth."""
    for name in HOSTILE:
        shutil.copytree(format_2, tmp_path / name)
    program = f"""
        import os, resource, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_damaged_shards as test
        test.open_shards({str(format_2)!r}).clip("general", 0)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30),) * 2)
        for name in test.HOSTILE:
            print(name + ": " + test.refuse_hostile(os.path.join({str(tmp_path)!r}, name), name))
        # not ru_maxrss, which begins with what the parent had
        peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
        assert int(peak.split()[1]) < used // 1024 + (1 << 18), peak
    """
    ran = tmp_path / "ran"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=300,
        env=os.environ | {"RAN": str(ran)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == len(HOSTILE) and not ran.exists()
    assert "bomb of values: " in done.stdout and "than the" in done.stdout


def test_a_header_of_vp9_tells_its_size_wherever_it_stands():
    for name, frame in VP9.items():
        assert told_size(frame) == (EDGE + 1, EDGE + 1), name
    video = np.random.default_rng(0).integers(0, 256, (5, 48, 80, 3)).astype(np.uint8)
    for frames in (video, np.repeat(video[..., :1], 3, -1)):
        for quality in (None, 16):
            first, *others = map(told_size, _packets(encode(frames, 16.0, quality)))
            assert first == (48, 80) and others == [None] * 4


def test_a_decoder_would_have_believed_the_frames():
    """The tables are no invention: PyAV decodes to what a frame says, not to what its container does."""
    grown = decode_sizes(_grows(_example()["rgb"]))
    assert grown == [(16, 24)] * 2 + [(160, 240)] * 3


def decode_sizes(data):
    with opened(io.BytesIO(data)) as stream:
        return [(frame.height, frame.width) for frame in decode(stream, [])]


@pytest.mark.parametrize("decoder", ["pyav", "dali"])
@pytest.mark.parametrize(
    "name", ["frames that grow", "a key frame that is huge, first", "a frame after others that is huge, later"]
)
def test_no_decoder_of_a_training_sees_a_hostile_video(tmp_path, format_2, monkeypatch, decoder, name):
    folder = Path(shutil.copytree(format_2, tmp_path / "data"))
    change = HOSTILE[name]
    _resample(folder, lambda parts: parts | {key: make(parts[key]) for key, make in change.items()})
    seen = []
    monkeypatch.setattr(loader, "decode_all", lambda *arguments: seen.append(arguments))
    monkeypatch.setattr(loader.DaliDecoder, "decode", lambda *arguments: seen.append(arguments))
    stage = StageConfig(sources=("general",), modalities=("flow",), steps=1)
    with pytest.raises(ValueError, match="shard.00000.mds is damaged .its frames are") as error:
        next(loader.training_batches(folder, stage, 2, reading=loader.Reading(decode=decoder)))
    _sentence(error)
    assert not seen


def test_the_modalities_of_a_clip_are_those_that_its_dataset_tells(tmp_path, format_2):
    available = open_shards(format_2).available
    for source, flags in available.items():
        for number, row in enumerate(flags):
            sample = open_shards(format_2).sample(source, number)
            assert [bool(sample[name]) for name in MODALITY_NAMES] == row.tolist()

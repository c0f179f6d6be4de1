"""Films of every kind, made by FFmpeg's program and compared with what FFmpeg itself decodes and shows."""

import itertools
import os
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from unity.data import decoding, film
from unity.data.film import Roll, choose, look, read_film
from unity.data.video import count_frames, read_video, write_video

FFMPEG = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
SOURCE = "testsrc2=s=64x48:r=10:d=0.7,format=rgb24"


def ffmpeg(*arguments) -> bytes:
    done = subprocess.run([FFMPEG, "-v", "error", "-y", *map(str, arguments)], capture_output=True)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return done.stdout


def make(path, *arguments, source=SOURCE):
    # FFmpeg's static build writes transport streams, and crashes on reading one: their twin tells what is in them
    twin = path.with_suffix(".twin.mkv") if path.suffix == ".ts" else path
    ffmpeg("-f", "lavfi", "-i", source, *arguments, twin)
    if twin != path:
        ffmpeg("-i", twin, "-c", "copy", path)
    return path


def shown(path, height, width, *filters, before=()):
    """All frames as FFmpeg shows them, none left out and none repeated; also of files with faults."""
    chain = ("-vf", ",".join(filters)) if filters else ()
    path = path.with_suffix(".twin.mkv") if path.suffix == ".ts" else path
    command = [FFMPEG, "-v", "quiet", *before, "-i", f"file:{path}", *chain, "-fps_mode", "passthrough"]
    done = subprocess.run([*map(str, command), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True)
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)


def difference(ours, theirs):
    return np.abs(ours.astype(int) - theirs)


PIXELS = ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le", "nv12", "gray")
MATRICES = ("bt709", "smpte170m", "bt470bg", "bt2020nc", "fcc", "smpte240m", None)


def _later(*values):
    """In `make test-all`: what differs in nothing but a number from what `make test` tries."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.mark.parametrize(
    ("pixels", "matrix", "full"), itertools.product(PIXELS, MATRICES, ("tv", "pc")), ids=lambda v: str(v)
)
def test_matrices_and_ranges(pixels, matrix, full, tmp_path):
    tags = ("-color_range", full, *(("-colorspace", matrix) if matrix else ()))
    path = make(tmp_path / "a.mkv", "-pix_fmt", pixels, "-c:v", "libx264", "-qp", 8, *tags)
    np.testing.assert_array_equal(read_video(path), shown(path, 48, 64))


@pytest.mark.parametrize("matrix", ["ycgco"])
def test_colours_that_cannot_be_converted_are_said(matrix, tmp_path):
    path = make(tmp_path / "a.mkv", "-pix_fmt", "yuv420p", "-c:v", "libx264", "-colorspace", matrix)
    with pytest.raises(ValueError, match="colours .* cannot be converted to RGB; convert it first: ffmpeg"):
        read_video(path)


CODECS = {
    "h264.mp4": ("libx264", "yuv420p"), "b-frames.mp4": ("libx264", "yuv420p", "-bf", 3, "-b_strategy", 0),
    "h264.mov": ("libx264", "yuv420p"), "h264.mkv": ("libx264", "yuv420p"), "h264.ts": ("libx264", "yuv420p"),
    "h264.flv": ("libx264", "yuv420p"), "h264.avi": ("libx264", "yuv420p", "-bf", 2),
    "raw.h264": ("libx264", "yuv420p"),
    "fragments.mp4": ("libx264", "yuv420p", "-movflags", "frag_keyframe+empty_moov", "-g", 3),
    "hevc.mp4": ("libx265", "yuv420p", "-x265-params", "log-level=none"),
    "hevc10.mkv": ("libx265", "yuv420p10le", "-x265-params", "log-level=none"),
    "vp8.webm": ("libvpx", "yuv420p", "-auto-alt-ref", 1, "-lag-in-frames", 5),
    "vp9.webm": ("libvpx-vp9", "yuv420p", "-auto-alt-ref", 1, "-lag-in-frames", 5),
    "av1.mp4": ("libaom-av1", "yuv420p", "-cpu-used", 8, "-crf", 30), "mpeg4.avi": ("mpeg4", "yuv420p", "-bf", 2),
    "mpeg2.mpg": ("mpeg2video", "yuv420p", "-bf", 2, "-r", 25), "mpeg2.ts": ("mpeg2video", "yuv422p", "-r", 25),
    "prores.mov": ("prores_ks", "yuv422p10le"), "mjpeg.avi": ("mjpeg", "yuvj420p"),
    "mjpeg.mov": ("mjpeg", "yuvj422p"),
    "ffv1.mkv": ("ffv1", "bgr0"), "deep.mkv": ("ffv1", "yuv420p16le"), "theora.ogv": ("libtheora", "yuv420p"),
    "a.gif": ("gif", "rgb8"), "raw.y4m": ("rawvideo", "yuv420p"), "raw.nut": ("rawvideo", "rgb24"),
    "alpha.mov": ("qtrle", "argb"), "alpha.mkv": ("ffv1", "yuva420p"), "png.mov": ("png", "rgb24"),
    "palette.nut": ("rawvideo", "pal8"), "wmv.wmv": ("wmv2", "yuv420p"),
    "dv.dv": ("dvvideo", "yuv420p", "-s", "720x576", "-r", 25),
}  # fmt: skip


@pytest.mark.parametrize("name", CODECS)
def test_containers_and_codecs(name, tmp_path):
    codec, pixels, *rest = CODECS[name]
    path = make(tmp_path / name, "-c:v", codec, "-pix_fmt", pixels, *rest)
    facts = look(path)
    filters = ("bwdif=mode=send_frame:deint=interlaced",) if name == "dv.dv" else ()
    theirs = shown(path, *((576, 720) if name == "dv.dv" else (48, 64)), *filters)
    ours = read_film(facts)
    if name == "dv.dv":
        # its pixels are not square, and FFmpeg does not make them so unasked
        assert facts.size == (576, round(720 * facts.pixel)) and len(ours.frames) == len(theirs)
        return
    np.testing.assert_array_equal(ours.frames, theirs)
    assert len(theirs) >= 7 and count_frames(path) == len(theirs)
    np.testing.assert_array_equal(read_film(facts, 3).frames[[0, 2]], theirs[[0, -1]])


def notes_of(degrees, hflip, vflip):
    flips = ("-display_hflip",) * hflip + ("-display_vflip",) * vflip
    return ("-display_rotation", degrees, *flips)


TURNS = list(itertools.product((0, 90, 180, 270, -90), (False, True), (False, True)))


@pytest.mark.parametrize(("degrees", "hflip", "vflip"), TURNS)
@pytest.mark.parametrize("container", ["mp4", "mov", "mkv"])
def test_turned_and_mirrored(degrees, hflip, vflip, container, tmp_path):
    lying = make(tmp_path / "lying.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p")
    path = tmp_path / f"turned.{container}"
    ffmpeg(*notes_of(degrees, hflip, vflip), "-i", lying, "-c", "copy", path)
    size = (64, 48) if degrees % 180 else (48, 64)
    theirs = shown(path, *size)
    plain = shown(path, 48, 64, before=("-noautorotate",))
    ours = read_film(look(path))
    assert ours.size == size
    # a mirrored frame's colours are converted before it is mirrored here, and after there
    assert difference(ours.frames, theirs).mean() < 1.5 and difference(ours.frames, theirs).max() < 120
    wrong = [np.rot90(plain, k, (1, 2)) for k in range(4)]
    wrong += [turned[:, :, ::-1] for turned in wrong]
    fits = [difference(ours.frames, w).mean() for w in wrong if w.shape == ours.frames.shape]
    assert difference(ours.frames, theirs).mean() <= min(fits) + 1.5


def test_a_turn_that_is_no_quarter_is_said(tmp_path):
    lying = make(tmp_path / "lying.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p")
    ffmpeg("-display_rotation", 30, "-i", lying, "-c", "copy", tmp_path / "askew.mp4")
    assert "less than a quarter" in " ".join(look(tmp_path / "askew.mp4").notes)
    ffmpeg("-display_rotation", 90, "-i", lying, "-c", "copy", tmp_path / "turned.mp4")
    assert look(tmp_path / "turned.mp4").notes == ()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tiff"])
def test_photographs_stand_as_their_exif_says(orientation, kind, tmp_path):
    y, x = np.mgrid[:48, :64]
    picture = Image.fromarray(np.stack([x * 4, y * 5, (x > 40) * 200], -1).astype(np.uint8))
    exif = picture.getexif()
    exif[0x0112] = orientation
    options = {"quality": 98, "subsampling": 0} if kind == "jpg" else {"lossless": True} if kind == "webp" else {}
    picture.save(tmp_path / f"a.{kind}", exif=exif, **options)
    with Image.open(tmp_path / f"a.{kind}") as image:
        wanted = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    ours = read_film(look(tmp_path / f"a.{kind}"), 1)
    assert ours.frames.shape == (1, *wanted.shape) and difference(ours.frames[0], wanted).mean() < 1.5


SMOOTH = "gradients=s=64x48:r=10:d=0.4:c0=red:c1=blue:c2=white:nb_colors=3:seed=5,format=rgb24"


@pytest.mark.parametrize("pixel", ["4/3", "16/15", "32/27", "64/45", "8/9", "1/2", "2/1", "10/11"])
@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_pixels_are_made_square(pixel, container, tmp_path):
    path = make(
        tmp_path / f"a.{container}", "-vf", f"setsar={pixel}", "-c:v", "libx264", "-pix_fmt", "yuv444p", "-qp", 4,
        source=SMOOTH,
    )  # fmt: skip
    width = round(64 * Fraction(pixel))
    theirs = shown(path, 48, width, f"scale={width}:48:flags=bilinear")
    ours = read_film(look(path))
    assert ours.size == (48, width) and ours.frames.shape == theirs.shape
    assert difference(ours.frames, theirs).mean() < 2
    # half the height of what is shown, and all of its width
    assert read_video(path, size=(24, width // 2 // 2 * 2)).shape == (4, 24, width // 2 // 2 * 2, 3)


def test_pixels_that_cannot_be_are_square_and_it_is_said(tmp_path):
    path = make(tmp_path / "a.mkv", "-vf", "setsar=1/300", "-c:v", "ffv1")
    facts = look(path)
    assert facts.size == (48, 64) and "taken as square" in facts.notes[0]


TIMES = {
    "fast then slow": "if(lt(N,20),N*0.02,0.4+(N-20)*0.5)",
    "slow then fast": "if(lt(N,8),N*0.6,4.8+(N-8)*0.02)",
    "a still picture": "if(lt(N,10),N*0.04,5+N*0.04)",
    "jitter": "N*0.04+0.013*mod(N*7,3)",
    "squares": "N*N*0.01",
    "starts late": "7+N*0.04",
    "even": "N*0.04",
}


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("container", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize("frames", [5, *_later(2, 17)])
def test_frames_are_chosen_by_time(name, container, frames, tmp_path):
    """The brightness of a frame is its number."""
    path = make(
        tmp_path / f"a.{container}", "-vf", f"setpts='({TIMES[name]})/TB'", "-fps_mode", "vfr", "-enc_time_base",
        "1/1000", "-c:v", "libx264", "-qp", 4, "-pix_fmt", "yuv444p",
        source="color=black:s=32x32:r=50:d=0.6,geq=r='N*8':g='N*8':b='N*8',format=rgb24,settb=1/1000",
    )  # fmt: skip
    times = np.array([eval(_python(TIMES[name]), {"N": n}) for n in range(len(shown(path, 32, 32)))])
    times -= times[0]
    ours = read_film(look(path), frames)
    numbers = np.round(ours.frames.mean((1, 2, 3)) / 8).astype(int)
    np.testing.assert_allclose(ours.times, times[numbers], atol=0.0021)
    for target, number in zip(np.linspace(0, times[-1], frames), numbers, strict=True):
        assert abs(times[number] - target) <= np.abs(times - target).min() + 0.003
    assert ours.fps == pytest.approx((frames - 1) / times[-1], rel=0.01)


def _python(expression):
    condition = re.fullmatch(r"if\(lt\(N,(\d+)\),(.*),(.*)\)", expression)
    expression = f"({condition[2]}) if N < {condition[1]} else ({condition[3]})" if condition else expression
    return re.sub(r"mod\((.*),3\)", r"((\1) % 3)", expression)


LIGHTS = {"pq": "smpte2084", "hlg": "arib-std-b67"}
TONED = (
    "zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=tonemap=hable:desat=0,"
    "zscale=t=bt709:m=bt709:r=pc,format=gbrp"
)


@pytest.mark.parametrize("light", LIGHTS)
@pytest.mark.parametrize("pixels", ["yuv420p10le", *_later("yuv444p10le", "yuv444p12le", "yuv422p10le")])
@pytest.mark.parametrize("full", ["tv", "pc"])
@pytest.mark.parametrize("colours", ["white", "0xd0b090", "0x8090a0"])
def test_hdr_is_tone_mapped(light, pixels, full, colours, tmp_path):
    tags = (
        "-color_trc",
        LIGHTS[light],
        "-colorspace",
        "bt2020nc",
        "-color_primaries",
        "bt2020",
        "-color_range",
        full,
    )
    path = make(
        tmp_path / "a.mkv", "-vf", f"scale=out_color_matrix=bt2020:out_range={full}", "-pix_fmt", pixels, "-c:v",
        "ffv1", *tags,
        source=f"gradients=s=64x48:r=10:d=0.2:c0=black:c1={colours}:nb_colors=2:seed=3,format=gbrp16le",
    )  # fmt: skip
    facts = look(path)
    assert f"HDR ({light.upper()})" in facts.notes[0] and "tone-mapped" in facts.notes[0]
    apart = difference(read_film(facts).frames, shown(path, 48, 64, TONED))
    assert apart.mean() < 1 and np.quantile(apart, 0.999) <= 6
    assert difference(read_film(facts).frames, shown(path, 48, 64)).mean() > 1


@pytest.mark.parametrize(("cll", "display"), [("1000,400", None), ("4000,400", None), (None, 1000), (None, 4000)])
def test_the_brightest_of_the_film_decides(cll, display, tmp_path):
    primaries = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)"
    light = [f"max-cll={cll}"] if cll else [f"master-display={primaries}L({display * 10000},50)"]
    path = make(
        tmp_path / "a.mkv", "-vf", "scale=out_color_matrix=bt2020", "-pix_fmt", "yuv444p10le", "-c:v", "libx265",
        "-x265-params", ":".join(["log-level=none", "crf=2", "hdr10=1", "repeat-headers=1", *light]), "-color_trc",
        "smpte2084", "-colorspace", "bt2020nc", "-color_primaries", "bt2020",
        source="gradients=s=64x64:r=10:d=0.2:c0=black:c1=white:nb_colors=2:seed=3,format=gbrp16le",
    )  # fmt: skip
    apart = difference(read_video(path), shown(path, 64, 64, TONED))
    assert apart.mean() < 1 and np.quantile(apart, 0.99) <= 6


@pytest.mark.parametrize("first", ["tff", "bff"])
@pytest.mark.parametrize("kind", ["h264.mp4", "h264.mkv", "h264.ts", "mpeg2.mpg", "mpeg2.ts", "prores.mov"])
def test_interlaced_films_are_deinterlaced(first, kind, tmp_path):
    codec = {"h264": "libx264", "mpeg2": "mpeg2video", "prores": "prores_ks"}[kind.split(".")[0]]
    pixels = "yuv422p10le" if codec == "prores_ks" else "yuv420p"
    flags = ("-flags", "+ildct" if codec == "prores_ks" else "+ildct+ilme")
    path = make(
        tmp_path / kind, "-vf", f"interlace=scan={first}:lowpass=0,fieldorder={first}", "-c:v", codec, "-pix_fmt",
        pixels, *flags, "-r", 25, "-top", int(first == "tff"), "-field_order", "tt" if first == "tff" else "bb",
        source="testsrc2=s=64x48:r=50:d=0.4",
    )  # fmt: skip
    facts = look(path)
    assert "interlaced" in " ".join(facts.notes)
    theirs = shown(path, 48, 64, "bwdif=mode=send_frame:deint=interlaced")
    combed = shown(path, 48, 64)
    ours = read_film(facts).frames
    assert ours.shape == theirs.shape and difference(ours, theirs).mean() < 0.5
    assert difference(combed, theirs).mean() > 1


@pytest.mark.parametrize("kind", ["mp4", "mkv", "m4v", "mov"])
def test_a_cover_picture_is_no_film(kind, tmp_path):
    cover = make(tmp_path / "cover.png", "-frames:v", 1, source="color=red:s=256x256")
    clip = make(tmp_path / "clip.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p")
    path, order = tmp_path / f"a.{kind}", ("-map", "0", "-map", "1", "-c", "copy")
    if kind == "mkv":
        ffmpeg("-i", clip, "-attach", cover, "-metadata:s:t", "mimetype=image/png", "-c", "copy", path)
    else:
        ffmpeg("-i", cover, "-i", clip, *order, "-disposition:v:0", "attached_pic", path)
    np.testing.assert_array_equal(read_video(path), shown(clip, 48, 64))
    song = tmp_path / "song.mp3"
    sound = ("-f", "lavfi", "-i", "sine=d=1")
    ffmpeg(*sound, "-i", cover, "-map", "0", "-map", "1", "-c:v", "copy", "-disposition:v", "attached_pic", song)
    with pytest.raises(ValueError, match="only a cover picture"):
        read_video(song)


def test_of_several_films_the_default_then_the_largest_is_taken(tmp_path):
    small, large = (
        make(tmp_path / f"{s}.mp4", "-vf", f"scale={s},setsar=1", "-c:v", "libx264", "-pix_fmt", "yuv420p")
        for s in ("32:32", "64:48")
    )
    both = ("-i", small, "-i", large, "-map", "0", "-map", "1", "-c", "copy")
    ffmpeg(*both, "-disposition:v", 0, tmp_path / "largest.mkv")
    ffmpeg(*both, "-disposition:v:0", "default", "-disposition:v:1", 0, tmp_path / "default.mkv")
    assert look(tmp_path / "largest.mkv").size == (48, 64)
    assert look(tmp_path / "default.mkv").size == (32, 32)


NAMES = (
    "12:30.mp4", "http:x.mp4", "concat:a.mp4|b.mp4", "a%03d.mp4", "a b'c\"d.mp4", "中文é🐈.mp4",
    "-y.mp4", "#?&.mp4",
    "a\nb.mp4", "file:a.mp4", "~.mp4", "*.mp4", "without suffix", os.fsdecode(b"caf\xe9.mp4"), "n" * 251 + ".mp4",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_every_name_is_a_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = make(tmp_path / "plain.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p")
    wanted = read_video(made)
    made.rename(name)
    np.testing.assert_array_equal(read_video(name), wanted)
    Path(name).write_bytes(b"no film")
    with pytest.raises(ValueError, match="give a video file that players can open") as error:
        read_video(name)
    str(error.value).encode()


def test_a_playlist_reads_no_other_place(tmp_path):
    (tmp_path / "a.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(ValueError, match=r"cannot read .*a\.m3u8"):
        read_video(tmp_path / "a.m3u8")


LONG = "testsrc2=s=64x48:r=10:d=4"
DAMAGED = (
    "h264.mp4", "h264.mkv", "fragments.mp4", "hevc.mp4", "vp9.webm", "mpeg4.avi", "mpeg2.mpg", "mjpeg.avi",
)  # fmt: skip
WOUNDS = ("cut 0.9", "cut 0.6", "cut 0.35", "flips 1", "flips 2", "flips 3", "hole 4", "hole 5")


def wound(data: bytes, how: str) -> bytes:
    kind, number = how.split()
    if kind == "cut":
        return data[: int(len(data) * float(number))]
    rng, data = np.random.default_rng(int(number)), bytearray(data)
    # the header stays, as a file without one is no video
    places = rng.integers(len(data) // 4, len(data) * 3 // 4, 12 if kind == "flips" else 1)
    for place in places:
        length = 1 if kind == "flips" else len(data) // 10
        data[place : place + length] = rng.bytes(min(length, len(data) - place))
    return bytes(data)


@pytest.mark.parametrize("how", WOUNDS)
@pytest.mark.parametrize("name", DAMAGED)
def test_what_ffmpeg_decodes_of_a_damaged_film_is_used(name, how, tmp_path):
    codec, pixels, *rest = CODECS[name]
    faststart = ("-movflags", "+faststart") if name in ("h264.mp4", "hevc.mp4") else ()
    whole = make(tmp_path / name, "-c:v", codec, "-pix_fmt", pixels, "-g", 12, *rest, *faststart, source=LONG)
    path = whole.with_name(f"damaged-{name}")
    path.write_bytes(wound(whole.read_bytes(), how))
    theirs = shown(path, 48, 64)
    if not len(theirs):
        with pytest.raises(ValueError, match="cannot read"):
            read_video(path)
        return
    facts = look(path)
    assert facts.frames >= min(5, len(theirs))
    ours = read_film(facts, min(5, len(theirs)))
    assert ours.times == tuple(sorted(ours.times))
    # each of ours is one of theirs, in order; what a decoder's threads make of the damaged spot itself differs
    found = [difference(theirs, frame).reshape(len(theirs), -1).mean(1) for frame in ours.frames]
    apart = [distances.min() for distances in found]
    order = [int(distances.argmin()) for distances in found if distances.min() < 0.5]
    assert order == sorted(order)
    assert np.median(apart) < 0.5, apart
    assert abs(count_frames(path) - len(theirs)) <= 1


@pytest.mark.parametrize(
    ("name", "how", "words"),
    [("hevc.mp4", "hole 4", "11 times, first: Invalid data"), ("h264.mp4", "cut 0.6", "of 40 fra")],
)
def test_damage_is_said(name, how, words, tmp_path):
    codec, pixels, *rest = CODECS[name]
    path = make(
        tmp_path / name, "-c:v", codec, "-pix_fmt", pixels, "-g", 12, *rest, "-movflags", "+faststart", source=LONG
    )  # fmt: skip
    assert read_film(look(path), 5).notes == ()
    path.write_bytes(wound(path.read_bytes(), how))
    said = " ".join(read_film(look(path), 5).notes)
    assert f"{name} is damaged" in said and words in said


def test_one_pass_of_decoding(tmp_path, monkeypatch):
    path = make(tmp_path / "a.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p", source=LONG)
    seen, decode = [], decoding.decode

    def counting(*arguments):
        for frame in decode(*arguments):
            seen.append(frame.pts)
            yield frame

    monkeypatch.setattr(decoding, "decode", counting)
    read_video(path, 17)
    # the first frame tells the size
    assert len(seen) == 40 + 1


@pytest.mark.parametrize(
    "name", ["h264.mp4", "b-frames.mp4", "h264.mkv", "h264.ts", "hevc.mp4", "vp9.webm", "mpeg4.avi"]
)
def test_jumping_over_a_long_film_gives_the_same_frames(name, tmp_path, monkeypatch):
    codec, pixels, *rest = CODECS[name]
    path = make(
        tmp_path / name, "-c:v", codec, "-pix_fmt", pixels, "-g", 30, *rest, source="testsrc2=s=64x48:r=10:d=60"
    )  # fmt: skip
    facts = look(path)
    decoded = []
    monkeypatch.setattr(decoding, "decode", _counting(decoding.decode, decoded))
    jumped = read_film(facts, 9)
    few = len(decoded)
    roll = Roll(facts, (48, 64), fps=1 / 8)
    rolled, times = np.stack(list(roll)), roll.origin.times
    fewer = len(decoded) - few
    monkeypatch.setattr(film, "jumping", _astray(film.jumping))
    np.testing.assert_array_equal(list(roll), rolled)
    assert roll.origin.times == times
    monkeypatch.setattr(film, "jumps_pay", lambda *_: False)
    walked = read_film(facts, 9)
    np.testing.assert_array_equal(jumped.frames, walked.frames)
    assert jumped.times == walked.times
    np.testing.assert_array_equal(list(roll), rolled)
    assert len(rolled) == 8 and roll.origin.times == times
    # AVI tells no time of a frame, and a transport stream has no index
    assert max(few, fewer) < 330 or name in ("mpeg4.avi", "h264.ts")


def _astray(jumping):
    """Jumps of which some arrive, and then one does not."""

    def some(*arguments):
        yield from itertools.islice(jumping(*arguments), 70)
        raise film.Astray

    return some


def _counting(decode, seen):
    def counting(*arguments):
        for frame in decode(*arguments):
            seen.append(1)
            yield frame

    return counting


@pytest.mark.slow
def test_ten_minutes_in_full_hd_fit_into_little_memory(tmp_path):
    path = make(
        tmp_path / "long.mp4", "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p",
        source="testsrc=s=1920x1080:r=25:d=600",
    )  # fmt: skip
    program = (
        "import resource, sys; from unity.data.video import read_video\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert read_video(sys.argv[1], 81, (64, 112)).shape == (81, 64, 112, 3)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 250


@pytest.mark.parametrize("size", [(64, 64), (720, 1280), (480, 832)])
@pytest.mark.parametrize("matrix", [None, "scale=in_color_matrix=bt709"])
def test_our_own_files_read_back_in_their_colours(size, matrix, tmp_path):
    """By us and by FFmpeg, whatever matrix it would guess: the tags tell it."""
    colours = np.array(
        [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [200, 90, 40]], np.uint8
    )
    frames = np.repeat(np.repeat(colours[:, None, None], size[0], 1), size[1], 2)
    path = write_video(frames, tmp_path / "a.mp4", 5)
    assert difference(read_video(path), frames).max() <= 3
    assert difference(shown(path, *size, *([matrix] if matrix else [])), frames).max() <= 3


def test_choosing_from_few_says_how_many():
    for frames in (0, 8):
        with pytest.raises(ValueError, match="it has 7 frames, . are wanted; ask for 1 to 7"):
            choose(range(7), frames, "it")

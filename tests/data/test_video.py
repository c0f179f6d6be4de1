"""Video bytes and files: the two decoders agree, nothing is lost where nothing may be, errors are clear."""

import subprocess
import sys

import av
import numpy as np
import pytest

from unity.data.film import choose
from unity.data.video import (
    RGB_QUALITY,
    DaliDecoder,
    count_frames,
    decode,
    decode_all,
    encode,
    read_video,
    resize,
    write_video,
)


def _noise(frames=5, height=24, width=42, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3)).astype(np.uint8)


def _scene(frames=9, height=64, width=64):
    """A smooth moving picture, as a camera would give."""
    t, y, x = np.mgrid[:frames, :height, :width]
    waves = [np.sin((x + 2 * t) / 9 + c) + np.cos((y - t) / 7 - c) for c in range(3)]
    return (127 + 60 * np.stack(waves, -1)).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(24, 42), (17, 33), (128, 128), (8, 8)])
def test_lossless_round_trip(height, width):
    frames = _noise(3, height, width)
    np.testing.assert_array_equal(decode(encode(frames, 16.0)), frames)


def test_grey_pictures_cost_a_third_and_stay_exact():
    frames = _scene(9)
    grey = np.repeat(frames[..., :1], 3, axis=-1)
    levels = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (2, 256, 8, 3))
    np.testing.assert_array_equal(decode(encode(grey, 16.0)), grey)
    np.testing.assert_array_equal(decode(encode(levels, 16.0)), levels)
    assert len(encode(grey, 16.0)) < 0.5 * len(encode(frames, 16.0))


def test_photographed_streams_are_small_and_close():
    frames = _scene()
    data = encode(frames, 16.0, RGB_QUALITY)
    error = np.abs(decode(data).astype(int) - frames)
    assert 10 * np.log10(255**2 / (error**2).mean()) > 40
    assert len(data) < len(encode(frames, 16.0)) < frames.nbytes


def test_a_window_is_a_slice():
    frames = _noise(9)
    np.testing.assert_array_equal(decode(encode(frames, 16.0), start=3, frames=5), frames[3:8])


def test_dali_gives_what_pyav_gives():
    pytest.importorskip("nvidia.dali")
    grey = np.repeat(_noise(9, 64, 64)[..., :1], 3, axis=-1)
    videos = [encode(frames, 16.0) for frames in (_scene(), grey, _noise(9, 64, 64))]
    videos.append(encode(_scene(), 23.976, RGB_QUALITY))
    starts = [0, 4, 2, 3]
    decoder = DaliDecoder(batch=4, threads=2)
    for _ in range(2):
        for ours, theirs in zip(decoder.decode(videos, starts, 5), decode_all(videos, starts, 5), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_dali_names_what_it_cannot_decode(tmp_path):
    pytest.importorskip("nvidia.dali")
    path = write_video(_scene(), tmp_path / "h264.mp4", 16.0)
    with pytest.raises(ValueError, match="DALI cannot decode"):
        DaliDecoder(batch=1).decode([path.read_bytes()], [0], 5)


def test_bytes_are_the_same_in_another_process():
    program = (
        "import hashlib; import numpy as np; from unity.data.video import encode\n"
        "f = np.random.default_rng(0).integers(0, 256, (5, 24, 42, 3)).astype(np.uint8)\n"
        "print(hashlib.sha256(encode(f, 16.0) + encode(f, 16, 10)).hexdigest())"
    )
    runs = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True) for _ in range(2)]
    assert runs[0].returncode == 0, runs[0].stderr
    assert runs[0].stdout == runs[1].stdout
    frames = _noise()
    assert encode(frames, 16.0) == encode(frames, 16.0)


def test_mp4_round_trip_and_even_spread(tmp_path):
    frames = _scene(9)
    path = write_video(frames, tmp_path / "new" / "clip.mp4", 16.0)
    assert [p.name for p in path.parent.iterdir()] == ["clip.mp4"]
    assert count_frames(path) == 9
    back = read_video(path)
    assert np.abs(back.astype(int) - frames).mean() < 4
    np.testing.assert_array_equal(read_video(path, frames=5), back[[0, 2, 4, 6, 8]])


def test_written_files_play_anywhere(tmp_path):
    path = write_video(_noise(5, 25, 43), tmp_path / "odd.mp4", 12.0)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.height, stream.width, float(stream.average_rate)) == (24, 42, 12.0)


def test_a_failed_write_leaves_nothing(tmp_path):
    (tmp_path / "clip.mp4").mkdir()
    with pytest.raises(OSError):
        write_video(_noise(), tmp_path / "clip.mp4", 16.0)
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_telephone_video_stands_upright(tmp_path):
    frames, path = _scene(5, 32, 64), tmp_path / "turned.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=16)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "bgr0"
        stream.set_display_rotation(90)
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
    turned = read_video(path)
    assert turned.shape == (5, 64, 32, 3)
    np.testing.assert_array_equal(turned, np.rot90(frames, 1, axes=(1, 2)))


def test_spread_ends_at_both_ends():
    assert choose(range(33), 33) == list(range(33))
    assert choose(range(100), 5) == [0, 25, 50, 74, 99]
    assert choose(range(7), 1) == [0]


def test_resize_covers_and_cuts_the_centre():
    frames = np.zeros((2, 40, 80, 3), np.uint8)
    frames[:, :, 20:60] = 200
    assert (resize(frames, (20, 20)) == 200).all()
    assert (resize(frames, (40, 40)) == frames[:, :, 20:60]).all()
    assert resize(frames, (17, 31)).shape == (2, 17, 31, 3)
    assert resize(frames, (90, 100)).shape == (2, 90, 100, 3)


def test_palettes_keep_their_colours():
    palette = np.array([[0, 0, 0], [230, 25, 75], [60, 180, 75]], np.uint8)
    frames = palette[np.random.default_rng(0).integers(0, 3, (2, 50, 50))]
    small = resize(frames, (20, 20), "segmentation").reshape(-1, 3)
    assert {tuple(c) for c in small} <= {tuple(c) for c in palette}
    assert len(np.unique(resize(frames, (20, 20), "depth").reshape(-1, 3), axis=0)) > 3


@pytest.mark.parametrize("content", [None, b"", b"not a video", "directory"])
def test_unreadable_files_say_so(tmp_path, content):
    path = tmp_path / "clip.mp4"
    if content == "directory":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="clip.mp4"):
        read_video(path)


def test_too_few_frames_say_how_many_there_are(tmp_path):
    path = write_video(_scene(5), tmp_path / "short.mp4", 16.0)
    with pytest.raises(ValueError, match="has 5 frames, 9 are wanted"):
        read_video(path, frames=9)
    with pytest.raises(ValueError, match="0 are wanted"):
        read_video(path, frames=0)
    with pytest.raises(ValueError, match="only 2 frames from frame 3"):
        decode(encode(_noise(5), 16.0), start=3, frames=5)

"""The embedded codec of cells: nothing is lost, nothing leaks between cells, streams have about unit variance."""

import numpy as np
import pytest
import torch

from unity.data.simulate.clip import simulate
from unity.modality.table import MODALITIES
from unity.model.codec import CELL, load_codec, spread, to_frames, to_pixels

CODEC = load_codec("cells")
STREAMS = ["rgb", *MODALITIES]


def frames(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=generator)


def encode(video: torch.Tensor, streams: list[str]) -> torch.Tensor:
    return CODEC.encode(to_pixels(video), streams)


@pytest.mark.parametrize("count", [1, 5, 17])
def test_every_frame_of_every_stream_comes_back_exactly(count):
    video = frames(len(STREAMS), count, 8, 12)
    latent = encode(video, STREAMS)
    assert latent.shape == (len(STREAMS), CODEC.channels, 1 + (count - 1) // 4, 2, 3)
    assert torch.equal(to_frames(CODEC.decode(latent, STREAMS)), video)


def test_a_sample_is_standardised_as_its_own_stream_says():
    video = frames(1, 5, 8, 8).expand(len(STREAMS), -1, -1, -1, -1)
    latent, pixels = encode(video, STREAMS), to_pixels(video)
    for one, stream in zip(latent, STREAMS, strict=True):
        mean, deviation = spread(stream)
        # the sum over cells counts the first frame four times
        weights = torch.tensor([4.0, 1, 1, 1, 1])[None, :, None, None]
        torch.testing.assert_close(
            one.sum(), ((pixels[0] - mean) / deviation * weights).sum(), rtol=1e-4, atol=0.1
        )
        torch.testing.assert_close(one, encode(video[:1], [stream])[0], rtol=0, atol=0)


def test_a_cell_is_four_frames_of_a_square_and_the_first_frame_its_own():
    video = frames(1, 9, 8, 8)
    plain = encode(video, ["rgb"])
    for t, cell in ((0, 0), (1, 1), (4, 1), (5, 2), (8, 2)):
        changed = video.clone()
        changed[0, t, 5, 2, 1] ^= 128
        differs = (encode(changed, ["rgb"]) != plain).nonzero()
        # row 5 and column 2 lie in the second row of cells, first column; the first frame fills its cell
        assert {tuple(place[2:].tolist()) for place in differs} == {(cell, 1, 0)}
        assert len(differs) == (CELL[0] if t == 0 else 1)


def test_noise_in_the_first_cell_is_averaged_over_its_four_copies():
    latent = encode(frames(1, 5, 8, 8), ["depth"])
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0)) * 0.01
    off = CODEC.decode(latent + noise, ["depth"]) - CODEC.decode(latent, ["depth"])
    assert 0.3 < (off[:, :, 0].std() / off[:, :, 1:].std()).item() < 0.7


def test_output_is_clipped():
    assert CODEC.decode(torch.full((1, CODEC.channels, 2, 2, 2), 99.0), ["flow"]).abs().max() == 1


def test_simulated_streams_have_about_zero_mean_and_unit_variance():
    """The constants of every modality's row, and RGB's, against clips that they were not measured on."""
    clips = [
        simulate(index, source, 5, (64, 64)) for source in ("single_person", "general") for index in (71, 72, 73)
    ]
    for stream in STREAMS:
        shown = [clip.video[stream] for clip in clips if stream in clip.video]
        latent = encode(torch.from_numpy(np.stack(shown)), [stream] * len(shown))
        assert latent.mean().abs() < 0.5, stream
        assert 0.5 < latent.std() < 1.6, stream


@pytest.mark.parametrize(("shape", "said"), [((4, 8, 8), "use 1 or 5"), ((5, 6, 8), "multiples of 4 and 4")])
def test_sizes_that_would_lose_pixels_are_refused(shape, said):
    with pytest.raises(ValueError, match=said):
        CODEC.encode(torch.zeros(1, 3, *shape), ["rgb"])

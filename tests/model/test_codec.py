import itertools
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from einops import rearrange
from scipy.fft import dctn

import unity
from unity.model import dct
from unity.model.codec import WanCodec, load_codec, tile
from unity.model.dct_table import ROWS

PEOPLE = Path(unity.__file__).parent / "assets" / "people.mp4"


@pytest.fixture(scope="module")
def people():
    """The bundled real clip, [1, 3, 33, 256, 256] in [-1, 1]."""
    with av.open(PEOPLE) as file:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    return rearrange(torch.from_numpy(frames).float() / 127.5 - 1, "t h w c -> 1 c t h w")


def random_video(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def psnr(a, b):
    """dB at a peak-to-peak of 2."""
    return 10 * torch.log10(4 / (a - b).square().mean()).item()


def test_dct_keeps_a_real_clip(people):
    codec = load_codec("dct")
    latent = codec.encode(people)
    assert latent.shape == (1, codec.channels, 9, 32, 32) and codec.stride == (4, 8, 8)
    decoded = codec.decode(latent)
    assert psnr(decoded, people) > 30
    assert psnr(decoded[:, :, :1], people[:, :, :1]) > 27


def test_dct_latents_of_a_real_clip_have_about_unit_variance(people):
    spread = load_codec("dct").encode(people)[:, :, 1:].square().mean((0, 2, 3, 4)).sqrt()
    assert 0.6 < spread.median() < 1.5
    assert spread.min() > 0.15 and spread.max() < 4


def test_dct_coefficients_equal_scipys():
    video = random_video(1, 3, 9, 16, 16)
    codec = load_codec("dct")
    latent = codec.encode(video)
    # frames 5..8, second row and first column of patches
    patch = video[0, :, 5:9, 8:16, 0:8].double().numpy()
    axes = np.array([(1, 1, 1), (1, 0, -1), (-1, 2, -1)]) / np.sqrt([[3], [2], [6]])
    truth = np.einsum("dc,ctyx->dtyx", axes, dctn(patch, axes=(1, 2, 3), norm="ortho"))
    kept = torch.tensor([truth[row[:4]] for row in ROWS])
    mean, std = dct.constants()
    torch.testing.assert_close(latent[0, :, 2, 1, 0] * std + mean, kept.float(), atol=1e-5, rtol=1e-5)


def test_dct_is_a_projection():
    codec = load_codec("dct")
    video = 0.2 * random_video(1, 3, 5, 16, 24)
    once = codec.decode(codec.encode(video))
    torch.testing.assert_close(codec.decode(codec.encode(once)), once, atol=1e-5, rtol=0)


def test_dct_first_frame_stands_alone():
    codec = load_codec("dct")
    a, b = random_video(1, 3, 5, 16, 16), random_video(1, 3, 5, 16, 16, seed=1)
    b[:, :, 0] = a[:, :, 0]
    assert torch.equal(codec.encode(a)[:, :, 0], codec.encode(b)[:, :, 0])
    torch.testing.assert_close(codec.encode(a)[:, :, :1], codec.encode(a[:, :, :1]))


def test_dct_output_is_clipped():
    codec = load_codec("dct")
    assert codec.decode(torch.full((1, codec.channels, 2, 2, 2), 9.0)).abs().max() == 1


def test_measure_finds_the_scale_of_what_it_is_given():
    """A video of two kept coefficients of known spread: exactly these are found first."""
    generator = torch.Generator().manual_seed(0)
    basis, wanted = dct.basis().double(), [5, 9]
    spread = torch.tensor([0.5, 0.25])
    coefficients = torch.randn(1, 40, 8, 8, 2, generator=generator).double() * spread
    video = dct.unpatch(coefficients @ basis[wanted])[0].float()
    mean, rows = dct.measure({"only": (1.0, [video])})
    assert {row[:4] for row in rows[:2]} == {ROWS[index][:4] for index in wanted}
    assert rows[0][4] == pytest.approx(0.5, rel=0.1) and rows[1][4] == pytest.approx(0.25, rel=0.1)
    assert np.allclose(mean, 0, atol=1e-3)


@pytest.mark.parametrize("shape", [(4, 16, 16), (8, 16, 16), (5, 12, 16), (5, 16, 20)])
def test_sizes_that_would_lose_pixels_are_refused(shape):
    with pytest.raises(ValueError, match="4k\\+1 frames|multiples of"):
        load_codec("dct").encode(torch.zeros(1, 3, *shape))


def small_wan(name: str) -> AutoencoderKLWan:
    torch.manual_seed(0)
    channels = {"wan2.1": 16, "wan2.2": 48}[name]
    wan22 = dict(is_residual=True, patch_size=2, in_channels=12, out_channels=12, scale_factor_spatial=16)
    return AutoencoderKLWan(
        base_dim=8,
        num_res_blocks=1,
        z_dim=channels,
        latents_mean=torch.linspace(-1, 1, channels).tolist(),
        latents_std=torch.linspace(1, 3, channels).tolist(),
        **(wan22 if name == "wan2.2" else {}),
    )


def faded(pieces: list, stride: int, shared: int, fold: int = 1):
    """Pieces, each `stride` columns after the one before, along a straight ramp over those that are shared.

    `fold`: columns that are one where pieces are blended.
    """
    ramp = torch.arange(shared) // fold * fold / shared
    joined = [pieces[0][..., :stride]]
    for before, piece in itertools.pairwise(pieces):
        over = before[..., -shared:] * (1 - ramp) + piece[..., :shared] * ramp
        joined.append(torch.cat((over, piece[..., shared:stride]), dim=-1))
    return torch.cat(joined, dim=-1)


@pytest.mark.slow
@pytest.mark.parametrize("name, width, fold", [("wan2.1", 192, 1), ("wan2.2", 384, 2)])
def test_a_tiled_vae_is_its_tiles_faded_into_each_other(name, width, fold):
    """Each tile as the VAE says it alone, whole; and it never sees more than one."""
    codec = WanCodec(name, small_wan(name).eval())
    # pale, as nothing tells whether what is too bright is cut before it is blended or after
    codec.vae.decoder.conv_out.requires_grad_(False).weight.mul_(0.05)
    video, step = 0.5 * random_video(1, 3, 5, 32, width), codec.stride[2]
    latent = codec.encode(video)
    size, stride = 128, 96
    # in pictures of which Wan 2.2 folds two pixels a side into one, as its encoder sees them
    coded = [codec.encode(video[..., at : at + size * fold]) for at in range(0, width, stride * fold)]
    seen = [codec.decode(latent[..., at // step : (at + size) // step]) for at in range(0, width, stride)]
    assert max(piece.abs().max() for piece in seen) < 1
    tile(codec)
    assert codec.vae.use_tiling and codec.vae.tile_sample_min_width == 256
    codec.vae.tile_sample_min_width, codec.vae.tile_sample_stride_width = size, stride
    widths = {"encoder": 0, "decoder": 0}
    for part in widths:
        getattr(codec.vae, part).register_forward_pre_hook(
            lambda _, given, part=part: widths.update({part: max(widths[part], given[0].shape[-1])})
        )
    shared = size - stride
    found = codec.encode(video), codec.decode(latent)
    torch.testing.assert_close(
        found[0], faded(coded, stride * fold // step, shared * fold // step), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(found[1], faded(seen, stride, shared, fold), atol=1e-5, rtol=1e-5)
    assert widths == {"encoder": size, "decoder": size // step}
    codec.vae.disable_tiling()
    assert (found[1] - codec.decode(latent)).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["wan2.1", "wan2.2"])
def test_wan_from_a_folder(name, tmp_path):
    vae = small_wan(name).eval()
    vae.save_pretrained(tmp_path / "vae")
    codec = load_codec(name, tmp_path)
    video = random_video(2, 3, 5, 32, 32)
    latent = codec.encode(video)
    side = 32 // codec.stride[1]
    assert latent.shape == (2, codec.channels, 2, side, side)
    with torch.no_grad():
        mean = vae.encode(video).latent_dist.mean
        channel = codec.channels - 1
        torch.testing.assert_close(latent[:, channel], (mean[:, channel] - 1) / 3)
        torch.testing.assert_close(latent[:, 0], mean[:, 0] + 1)
        torch.testing.assert_close(codec.decode(latent), vae.decode(mean).sample.clamp(-1, 1))
    assert torch.equal(latent, codec.encode(video))
    with pytest.raises(ValueError, match="use 5 or 9 frames"):
        codec.encode(random_video(1, 3, 8, 32, 32))
    # the folder of the VAE itself serves too
    assert torch.equal(load_codec(name, tmp_path / "vae").encode(video), latent)


def test_absent_wrong_and_unknown_weights(tmp_path):
    with pytest.raises(ValueError, match="huggingface-cli download Wan-AI/Wan2.1"):
        load_codec("wan2.1", tmp_path)
    with pytest.raises(ValueError, match="huggingface-cli download Wan-AI/Wan2.2"):
        load_codec("wan2.2")
    small_wan("wan2.1").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="not wan2.2"):
        load_codec("wan2.2", tmp_path)
    with pytest.raises(ValueError, match="choose cells, dct, wan2.1, wan2.2"):
        load_codec("vqgan")


def test_importing_the_doors_is_quick():
    code = (
        "import sys, unity.model.codec, unity.model.text, unity.modality.table; "
        "print({'diffusers', 'transformers'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"

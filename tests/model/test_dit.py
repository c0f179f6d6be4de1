from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from einops import rearrange

from unity import ops
from unity.config import MODELS, ModelConfig
from unity.kernels.reference import qk_norm_rope
from unity.modality.table import MODALITIES
from unity.model.dit import UnityDiT
from unity.model.layouts import to_diffusers, to_unity, to_wan

SMALL = ModelConfig(dim=48, ffn_dim=80, num_heads=2, num_layers=2, latent_channels=4, text_dim=16, text_len=12)


def randomised(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for value in model.parameters():
        value.data.normal_(std=0.1, generator=generator)
    return model.requires_grad_(False)


def inputs(b=3, seed=1):
    g = torch.Generator().manual_seed(seed)
    rgb, aux = torch.randn(2, b, 4, 3, 4, 6, generator=g).unbind(0)
    caption, prompt = torch.randn(b, 5, 16, generator=g), torch.randn(b, 3, 16, generator=g)
    return dict(
        rgb=rgb, aux=aux, time=torch.rand(b, 2, generator=g), modality=torch.tensor([1, 3, 0])[:b],
        caption=caption, caption_len=torch.tensor([5, 2, 1])[:b],
        prompt=prompt, prompt_len=torch.tensor([3, 3, 1])[:b],
    )  # fmt: skip


def wan():
    """diffusers' own transformer with random weights: the independent truth of the RGB half."""
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=4, text_dim=16, freq_dim=256,
        ffn_dim=80, num_layers=2, cross_attn_norm=True, qk_norm="rms_norm_across_heads", rope_max_seq_len=64,
    )  # fmt: skip
    return randomised(model)


@pytest.mark.parametrize("layout", ["diffusers", "wan"])
def test_rgb_alone_equals_diffusers_wan(layout):
    theirs, x = wan(), inputs()
    state = theirs.state_dict()
    if layout == "wan":
        state = to_wan(to_unity(state, SMALL), SMALL)
    ours = UnityDiT(SMALL)
    ours.load_state_dict(to_unity(state, SMALL))
    padded = F.pad(x["caption"], (0, 0, 0, SMALL.text_len - 5))
    padded *= (torch.arange(SMALL.text_len) < x["caption_len"][:, None])[..., None]
    expected = theirs(x["rgb"], 1000 * x["time"][:, 0], padded, return_dict=False)[0]
    caption = padded[:, :5]
    velocity, none = ours(x["rgb"], None, x["time"][:, :1], None, caption, x["caption_len"])
    assert none is None
    torch.testing.assert_close(velocity, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("cross_modulation", [False, True])
def test_wan_weights_in_both_streams_stay_wan(cross_modulation):
    """With two equal latents and texts, RGB's half differs from Wan only by seeing the second stream's tokens."""
    config = replace(SMALL, cross_modulation=cross_modulation, cross_attention="separate", input="expert")
    ours = UnityDiT(config)
    ours.load_state_dict(to_unity(wan().state_dict(), config))
    plain = UnityDiT(SMALL)
    plain.load_state_dict(to_unity(wan().state_dict(), SMALL))
    x = inputs()
    for got, expected in zip(ours(**x), plain(**x), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_layouts_round_trip():
    state = wan().state_dict()
    ours = to_unity(state, SMALL)
    ours["modality_embedding"].normal_()
    back = to_diffusers(ours, SMALL)
    folded = "condition_embedder.time_embedder.linear_2.bias"
    torch.testing.assert_close(back.pop(folded), state[folded] + ours["modality_embedding"][-1])
    for key, value in back.items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)
    assert back.keys() | {folded} == state.keys()


def test_contiguous_streams_equal_concatenation_along_width(monkeypatch):
    """Attention on tokens laid row by row, rgb columns then aux columns, with plain RoPE over (t, h, 2w)."""
    model, x = randomised(UnityDiT(SMALL)), inputs()
    contiguous = model(**x)
    grid = (3, 2, 3)

    def interleave(z):
        return rearrange(z, "b (s t h w) ... -> b (t h s w) ...", s=2, t=3, h=2, w=3)

    def attend(q, k, v):
        out = F.scaled_dot_product_attention(*(rearrange(z, "b l n k -> b n l k") for z in (q, k, v)))
        return rearrange(out, "b n (t h s w) k -> b (s t h w) n k", s=2, t=3, h=2, w=3)

    def norm_rope(q, k, wq, wk, rotary, eps, inplace):
        t, h, w = rotary.grid
        assert rotary.grid == grid and rotary.streams == 2
        one = replace(rotary, grid=(t, h, 2 * w), streams=1, count=None)
        return qk_norm_rope(interleave(q), interleave(k), wq, wk, one, eps)

    monkeypatch.setattr(ops, "qk_norm_rope", norm_rope)
    monkeypatch.setattr(ops, "self_attention", lambda q, k, v: attend(q, k, interleave(v)))
    for got, expected in zip(model(**x), contiguous, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_padding_collapse_equals_512_padded_keys():
    config = replace(SMALL, text_len=512)
    model, x = randomised(UnityDiT(config)), inputs()
    collapsed = model(**x)
    # the same texts with their zero padding spelled out: no key is left to collapse
    for name in ("caption", "prompt"):
        real = torch.arange(512) < x[f"{name}_len"][:, None]
        x[name] = F.pad(x[name], (0, 0, 0, 512 - x[name].shape[1])) * real[..., None]
        x[f"{name}_len"] = torch.full((3,), 512)
    for got, expected in zip(collapsed, model(**x), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_text_beyond_its_length_is_not_seen():
    model, x = randomised(UnityDiT(SMALL)), inputs()
    expected = model(**x)
    x["caption"][1, 2:] = 1e3
    for got, before in zip(model(**x), expected, strict=True):
        torch.testing.assert_close(got, before, rtol=0, atol=0)


def test_each_stream_reads_its_own_text_time_and_expert():
    model, x = randomised(UnityDiT(replace(SMALL, num_layers=1, input="expert"))), inputs()
    # cut the streams apart: with self-attention's output gone, only their own inputs can reach them
    for value in (model.blocks[0].self_attn.o.weight, model.blocks[0].self_attn.o.bias):
        value.zero_()
    rgb, aux = model(**x)
    for name, reaches_rgb in [("caption", True), ("prompt", False)]:
        changed = model(**{**x, name: x[name] + 1})
        assert torch.equal(changed[0], rgb) is not reaches_rgb and torch.equal(changed[1], aux) is reaches_rgb
    changed = model(**{**x, "modality": (x["modality"] + 1) % 5})
    assert torch.equal(changed[0], rgb) and not torch.equal(changed[1], aux)
    changed = model(**{**x, "time": x["time"] * torch.tensor([1.0, 0.5])})
    assert torch.equal(changed[0], rgb) and not torch.equal(changed[1], aux)


def test_a_sample_does_not_depend_on_its_batch():
    model, x = randomised(UnityDiT(replace(SMALL, input="expert"))), inputs()
    whole = model(**x)
    for i in range(3):
        alone = model(**{key: value[i : i + 1] for key, value in x.items()})
        for got, expected in zip(alone, whole, strict=True):
            torch.testing.assert_close(got[0], expected[i], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("output", ["shared", "expert"])
def test_a_fresh_model_predicts_zero_and_learns_everywhere(output):
    torch.manual_seed(0)
    model, x = UnityDiT(replace(SMALL, input="expert", output=output, cross_modulation=True)), inputs()
    velocities = model(**x)
    assert all(torch.equal(v, torch.zeros_like(v)) for v in velocities)
    for _ in range(3):  # zero head, then zero gates: gradient reaches every parameter within three steps
        sum((v - 1).square().mean() for v in model(**x)).backward()
        missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        for p in model.parameters():
            p.data -= 0.1 * p.grad
    assert not missing, missing


def test_unused_experts_take_part_in_the_graph_with_zero_gradient():
    model, x = UnityDiT(SMALL), inputs(1)
    torch.nn.init.normal_(model.head_aux.weight)
    sum(v.square().mean() for v in model(**x)).backward()
    for grad in (model.head_aux.weight.grad, model.blocks[0].modulation.table.grad):
        assert grad is not None and not grad[0].any() and grad[1].any()


@pytest.mark.parametrize("wanted", [(False, True), (True, False)])
@pytest.mark.parametrize("changes", [{}, {"cross_modulation": True, "output": "shared"}], ids=["wan", "modulated"])
def test_a_stream_that_nobody_wants_changes_nothing_for_the_other(wanted, changes):
    model, x = randomised(UnityDiT(replace(SMALL, **changes))).requires_grad_(True), inputs()
    kept = wanted.index(True)
    whole, part = model(**x), model(**x, wanted=wanted)
    torch.testing.assert_close(part[kept], whole[kept], atol=1e-5, rtol=1e-5)
    assert torch.equal(part[1 - kept], torch.zeros_like(whole[0]))
    loss = [v.square().mean() for v in (whole[kept], sum(part))]
    expected, got = (torch.autograd.grad(one, list(model.parameters()), allow_unused=True) for one in loss)
    for (name, _), a, b in zip(model.named_parameters(), expected, got, strict=True):
        # ZeRO-3 needs a gradient for every parameter in every step
        assert b is not None, name
        torch.testing.assert_close(b, torch.zeros_like(b) if a is None else a, atol=1e-5, rtol=1e-4)


def test_the_last_block_computes_only_what_is_wanted():
    model, x = randomised(UnityDiT(SMALL)), inputs()
    rows = {}
    for name, module in model.blocks[-1].named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda m, args, out, name=name: rows.update({name: out.numel()}))
    model(**x)
    both = dict(rows)
    model(**x, wanted=(False, True))
    for name in ("self_attn.k", "self_attn.v"):
        assert rows[name] == both[name]
    for name in ("self_attn.o", "cross_attn.q", "cross_attn.k", "cross_attn.o", "ffn.0", "ffn.2"):
        assert 2 * rows[name] == both[name], name


def test_separate_cross_attentions_both_take_part_whatever_is_wanted():
    model, x = randomised(UnityDiT(replace(SMALL, cross_attention="separate"))), inputs()
    for got, expected in zip(model(**x, wanted=(False, True)), model(**x), strict=True):
        assert torch.equal(got, expected)


def test_the_velocity_follows_from_a_predicted_clean_latent():
    data = UnityDiT(replace(SMALL, prediction="data"))
    velocity = randomised(UnityDiT(SMALL))
    data.load_state_dict(velocity.state_dict())
    x = inputs()
    x["time"] = torch.tensor([[0.9, 0.3], [0.5, 0.0], [0.02, 1.0]])
    latents = x["rgb"], x["aux"]
    for got, head, latent, time in zip(data(**x), velocity(**x), latents, x["time"].unbind(1), strict=True):
        time = time.clamp(min=0.1)[:, None, None, None, None]
        torch.testing.assert_close(got, (latent - head) / time)


# parameters of the Wan model of that size; ours adds modality rows, tables and output experts
WAN_SIZE = {"1.3b": 1.419e9, "5b": 5.000e9, "10b": 10.22e9, "14b": 14.288e9}


@pytest.mark.parametrize("name", MODELS)
def test_presets_have_their_size(name):
    with torch.device("meta"):
        model = UnityDiT(MODELS[name])
    wan_half = {k: v for k, v in model.named_parameters() if "_aux" not in k and k != "modality_embedding"}
    rows = sum(v[1:].numel() for k, v in wan_half.items() if k.endswith("modulation.table"))
    count = sum(v.numel() for v in wan_half.values()) - rows
    if name in WAN_SIZE:
        assert count == pytest.approx(WAN_SIZE[name], rel=5e-4)
    total = sum(v.numel() for v in model.parameters())
    exact = {
        "debug": 268_752, "tiny": 5_724_576, "mini": 8_494_176, "small": 129_382_464, "1.3b": 1_420_895_616,
        "5b": 5_005_551_744, "10b": 10_229_256_576, "14b": 14_296_356_224,
    }  # fmt: skip
    assert total == exact[name]


def test_the_config_counts_the_modalities_there_are():
    assert all(config.num_modalities == len(MODALITIES) for config in MODELS.values())


def test_bad_shapes_are_named():
    model, x = UnityDiT(SMALL), inputs()
    with pytest.raises(ValueError, match="must be equal in shape"):
        model._layout((x["rgb"], x["aux"][:, :, :1]), (True, True))
    with pytest.raises(ValueError, match="does not divide into patches"):
        model(**{**x, "rgb": x["rgb"][..., :5], "aux": x["aux"][..., :5]})
    with pytest.raises(ValueError, match="longer than the model's 12"):
        model(**{**x, "caption": torch.zeros(3, 13, 16)})
    with pytest.raises(ValueError, match="no even head size"):
        replace(SMALL, num_heads=5)


def test_without_gradients_queries_and_keys_are_turned_where_they_lie(monkeypatch):
    model, x, seen = randomised(UnityDiT(SMALL)), inputs(), []
    plain = ops.qk_norm_rope

    def spy(q, k, *rest, inplace):
        out = plain(q, k, *rest, inplace=inplace)
        seen.append([a.data_ptr() == b.data_ptr() for a, b in zip((q, k), out, strict=True)])
        return out

    monkeypatch.setattr(ops, "qk_norm_rope", spy)
    expected = model(**x)
    with torch.no_grad():
        found = model(**x)
    assert seen == 2 * [[False, False]] + 2 * [[True, True]]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))

"""The convolutional stem and head: what they may see, what they must not, and how they start."""

from dataclasses import replace

import pytest
import torch

from unity.config import MODELS
from unity.model.dit import UnityDiT
from unity.model.stem import Residual, Stem, _surroundings

SMALL = replace(MODELS["debug"], latent_channels=6, text_dim=16, text_len=12, patch=(1, 2, 2))


def randomised(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for value in model.parameters():
        value.data.normal_(std=0.1, generator=generator)
    return model


def inputs(b=3, seed=1):
    g = torch.Generator().manual_seed(seed)
    rgb, aux = torch.randn(2, b, 6, 3, 4, 6, generator=g).unbind(0)
    caption, prompt = torch.randn(b, 5, 16, generator=g), torch.randn(b, 3, 16, generator=g)
    return dict(
        rgb=rgb, aux=aux, time=torch.rand(b, 2, generator=g), modality=torch.tensor([1, 3, 0])[:b],
        caption=caption, caption_len=torch.tensor([5, 2, 1])[:b],
        prompt=prompt, prompt_len=torch.tensor([3, 3, 1])[:b],
    )  # fmt: skip


def test_a_cell_sees_itself_the_other_stream_and_both_one_step_before():
    latents = torch.randn(2, 2, 6, 3, 4, 6)
    found = _surroundings(latents).unflatten(0, (2, 2))
    for stream in range(2):
        own, other, own_before, other_before = found[:, stream].movedim(-1, 1).chunk(4, dim=1)
        assert torch.equal(own, latents[:, stream]) and torch.equal(other, latents[:, 1 - stream])
        for now, before in ((own, own_before), (other, other_before)):
            assert torch.equal(before[:, :, 1:], now[:, :, :-1]) and not before[:, :, 0].any()


def test_alone_a_stream_sees_nothing_in_the_other_ones_place():
    latents = torch.randn(2, 1, 6, 3, 4, 6)
    _, other, _, other_before = _surroundings(latents).chunk(4, dim=-1)
    assert not other.any() and not other_before.any()
    assert torch.equal(
        _surroundings(latents), _surroundings(torch.stack((latents[:, 0], latents[:, 0] * 0), 1))[::2]
    )


def test_residual_blocks_start_as_the_identity_and_see_a_neighbourhood_of_five():
    torch.manual_seed(0)
    block, x, embedded = Residual(6, 8), torch.randn(2, 3, 9, 9, 6), torch.randn(2, 8)
    assert torch.equal(block(x, embedded), x)
    randomised(block)
    changed = x.clone()
    changed[1, 2, 4, 4] += 1
    reached = (block(changed, embedded) != block(x, embedded)).any(-1)
    where = torch.zeros_like(reached)
    where[1, 2, 2:7, 2:7] = True
    assert reached.any() and not (reached & ~where).any()


def test_tokens_lie_where_the_patches_do():
    torch.manual_seed(0)
    stem, latents = randomised(Stem(SMALL, 6)), torch.randn(1, 2, 6, 3, 4, 6)
    row, embedded = torch.tensor([[5, 1]]), torch.zeros(2, SMALL.dim)
    changed = latents.clone()
    # last step, last corner: there is nothing later, and convolutions reach neighbouring patches only
    changed[0, 0, :, 2, 3, 5] += 1
    tokens, features = stem(latents, row, embedded)
    others, moved = stem(changed, row, embedded)
    assert tokens.shape == (2, 3 * 2 * 3, SMALL.dim) and features.shape == (2, 3, 4, 6, SMALL.stem)
    reached = (tokens != others).any(-1).unflatten(1, (3, 2, 3))
    assert not reached[:, :2].any() and not reached[:, 2, :, 0].any()
    # in both streams: each sees the other at the same place
    assert reached[:, 2, 1, 2].all() and (moved != features).any()


def test_a_fresh_model_says_zero_and_learns_everywhere():
    torch.manual_seed(0)
    model, x = UnityDiT(SMALL), inputs()
    clean = [v * x["time"][:, i].clamp(min=0.1)[:, None, None, None, None] for i, v in enumerate(model(**x))]
    # a clean latent of zero makes all that is there noise
    for found, latent in zip(clean, (x["rgb"], x["aux"]), strict=True):
        torch.testing.assert_close(found, latent)
    for _ in range(4):
        sum((v - 1).square().mean() for v in model(**x)).backward()
        missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        for p in model.parameters():
            p.data -= 0.1 * p.grad
            p.grad = None
    assert not missing, missing


@pytest.mark.parametrize("wanted", [(False, True), (True, False)])
def test_a_stream_that_nobody_wants_changes_nothing_for_the_other(wanted):
    model, x = randomised(UnityDiT(SMALL)), inputs()
    kept = wanted.index(True)
    whole, part = model(**x), model(**x, wanted=wanted)
    torch.testing.assert_close(part[kept], whole[kept], atol=1e-5, rtol=1e-5)
    part[kept].square().mean().backward()
    # ZeRO-3 needs a gradient for every parameter in every step
    assert all(p.grad is not None for p in model.parameters())


def test_a_sample_does_not_depend_on_its_batch():
    model, x = randomised(UnityDiT(SMALL)), inputs()
    whole = model(**x)
    for i in range(3):
        alone = model(**{name: value[i : i + 1] for name, value in x.items()})
        for got, expected in zip(alone, whole, strict=True):
            torch.testing.assert_close(got[0], expected[i], atol=1e-5, rtol=1e-5)


def test_each_modality_has_a_projection_of_its_own():
    model, x = randomised(UnityDiT(SMALL)), inputs()
    before = model(**x)
    with torch.no_grad():
        model.stem_head.weight[3] += 1
    after = model(**x)
    assert torch.equal(before[0], after[0])
    changed = [not torch.equal(a, b) for a, b in zip(before[1], after[1], strict=True)]
    assert changed == [m == 3 for m in x["modality"].tolist()]


def test_one_projection_may_serve_all_streams():
    model, x = randomised(UnityDiT(replace(SMALL, output="shared"))), inputs()
    before = model(**x)
    with torch.no_grad():
        model.stem_head.weight[:-1] += 1
    assert all(map(torch.equal, model(**x), before)), "only RGB's own row is looked at"
    with torch.no_grad():
        model.stem_head.weight[-1] += 1
    assert not any(
        torch.equal(a, b) for pair in zip(model(**x), before, strict=True) for a, b in zip(*pair, strict=True)
    )


def test_without_learner_and_switcher_nothing_but_the_output_tells_modalities_apart():
    """What each of the two parts knows, the other held still; with both off and one output, nothing is left."""
    x = inputs()
    x["caption"][:], x["caption_len"][:] = x["caption"][:1], 5
    others = {"switcher": {"modality": torch.tensor([2, 2, 2])}, "learner": {"prompt": x["prompt"].flip(0)}}
    for learner, switcher in ((True, True), (True, False), (False, True), (False, False)):
        shape = replace(SMALL, output="shared", in_context_learner=learner, switcher=switcher)
        model = randomised(UnityDiT(shape))
        sees = {name: not torch.equal(model(**x)[1], model(**x | change)[1]) for name, change in others.items()}
        assert sees == {"switcher": switcher, "learner": learner}
    # what is read in the prompt's place is the caption
    given = {"prompt": x["caption"], "prompt_len": x["caption_len"]}
    torch.testing.assert_close(
        model(**x), randomised(UnityDiT(replace(shape, in_context_learner=True)))(**x | given)
    )


@pytest.mark.parametrize(
    "changes",
    [{"patch": (2, 2, 2)}, {"input": "expert"}],
    ids=lambda changes: next(iter(changes)),
)
def test_shapes_that_a_stem_does_not_have_are_refused(changes):
    with pytest.raises(ValueError, match="or choose stem 0"):
        replace(SMALL, **changes)


def test_threads_add_gradients_in_one_order():
    """Or a run that goes on would differ in its last bits from one that nothing stopped."""
    model, threads = randomised(UnityDiT(MODELS["debug"])), torch.get_num_threads()
    g, config = torch.Generator().manual_seed(2), model.config
    rgb, aux = torch.randn(2, 8, config.latent_channels, 2, 16, 16, generator=g).unbind(0)
    words, time = torch.randn(8, 3, config.text_dim, generator=g), torch.rand(8, 2, generator=g)
    given = rgb, aux, time, torch.arange(8) % 4, words, torch.full((8,), 3), words, torch.full((8,), 2)
    found = []
    torch.set_num_threads(4)
    try:
        for _ in range(6):
            model.zero_grad()
            sum(velocity.square().mean() for velocity in model(*given)).backward()
            found.append({name: value.grad.clone() for name, value in model.named_parameters()})
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(value, other[name]) for name, value in found[0].items())

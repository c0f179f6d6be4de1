"""What estimates are shown: other light and cameras, as a function of the seed and the place alone."""

import numpy as np
import torch

from unity.train.augment import disturb

CLIPS = torch.randint(0, 256, (6, 5, 16, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
EVERY = torch.ones(6, dtype=torch.bool)


def shown(chosen=EVERY, share=1.0, seed=3, step=7, slots=range(6)):
    return disturb(CLIPS[list(slots)], chosen[list(slots)], share, seed, step, list(slots))


def test_only_chosen_clips_change_and_the_given_ones_are_left_as_they_were():
    before = CLIPS.clone()
    chosen = torch.tensor([True, False, True, False, False, True])
    changed = (shown(chosen) != CLIPS).flatten(1).any(1)
    assert torch.equal(changed, chosen) and torch.equal(CLIPS, before)


def test_a_share_of_them_changes():
    assert torch.equal(shown(share=0.0), CLIPS)
    changed = sum(int((shown(share=0.3, step=step) != CLIPS).flatten(1).any(1).sum()) for step in range(40))
    assert 0.2 < changed / 240 < 0.4


def test_a_draw_depends_on_seed_step_and_slot_alone():
    whole = shown()
    assert torch.equal(shown(), whole)
    # any cut into ranks or micro-batches
    assert torch.equal(torch.cat([shown(slots=[i]) for i in range(6)]), whole)
    for other in (shown(seed=4), shown(step=8)):
        assert all((a != b).any() for a, b in zip(other, whole, strict=True))


def test_places_stay_where_they_are():
    """A bright square on dark ground is still there, whatever the light, the camera and the file."""
    scene = torch.full((1, 5, 32, 32, 3), 50, dtype=torch.uint8)
    scene[:, :, 8:20, 12:24] = 200
    square = np.zeros((32, 32))
    square[8:20, 12:24] = 1
    for step in range(30):
        seen = disturb(scene, torch.tensor([True]), 1.0, 0, step, [0])[0].float().mean(-1).numpy()
        for frame in seen:
            assert np.corrcoef(frame.ravel(), square.ravel())[0, 1] > 0.8

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from unity.config import ModelConfig
from unity.model.layers import Block, SelfAttention
from unity.model.layout import Conditioning, Layout, Pending
from unity.model.sequence import Peers

SHAPE = ModelConfig(dim=48, ffn_dim=80, num_heads=2, num_layers=1, latent_channels=4)
GRID = (2, 3, 4)


@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
def test_samples_and_groups_are_views_that_undo_each_other(wanted):
    layout = Layout(GRID, wanted)
    x = torch.randn(6, layout.tokens, 5)
    samples = layout.samples(x)
    assert samples.shape == (3, 2 * layout.tokens, 5) and samples.data_ptr() == x.data_ptr()
    picked = layout.groups(layout.pick_tokens(samples))
    assert torch.equal(picked, layout.pick(x))
    assert torch.equal(layout.pick(x), x if all(wanted) else x[0 if wanted[0] else 1 :: 2])


@pytest.mark.parametrize("start, stop", [(0, 10), (10, 24), (7, 8), (5, None)])
def test_a_slice_of_the_tokens_turns_as_it_does_in_the_whole(start, stop, monkeypatch):
    """Queries and keys of each stream's slice are those of the whole sequence there."""
    torch.manual_seed(0)
    attention, x = SelfAttention(SHAPE).requires_grad_(False), torch.randn(2, 2, 24, SHAPE.dim)
    seen = []
    monkeypatch.setattr("unity.ops.self_attention", lambda q, k, v: seen.append((q, k)) or v)
    piece = Layout(GRID, start=start, stop=stop)
    for layout, tokens in ((Layout(GRID), x), (piece, x[:, :, start:stop])):
        attention(tokens.flatten(1, 2), layout)
    for whole, part in zip(*seen, strict=True):
        expected = whole.unflatten(1, (2, 24))[:, :, start:stop].flatten(1, 2)
        torch.testing.assert_close(part, expected, atol=1e-6, rtol=1e-6)
    assert piece.tokens == len(range(24)[start:stop])


def test_a_block_takes_three_values_and_gives_what_it_takes():
    block, layout = Block(SHAPE, 2), Layout(GRID, (False, True))
    given = Conditioning(
        torch.randn(3, 2, 6, 48), torch.tensor([[1, 0]] * 3), torch.randn(6, 5, 48), torch.zeros(6, 5)
    )
    first = block(Pending(torch.randn(6, 24, 48)), given, layout.of_all())
    last = block(first, given, layout)
    assert [tuple(part.shape) for part in first] == [(6, 24, 48), (6, 24, 48), (6, 48)]
    assert [tuple(part.shape) for part in last] == [(3, 24, 48), (3, 24, 48), (3, 48)]


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 6])
def test_slices_are_the_whole_cut_into_equal_parts(processes):
    """Tokens and their positions: each token of every stream in one slice, turned as in the whole."""
    whole = Layout(GRID)
    slices = [whole.over(Peers(rank, processes, torch.clone)) for rank in range(processes)]
    x = torch.randn(4, whole.tokens, 5)
    assert torch.equal(torch.cat([piece.cut(x) for piece in slices], dim=1), x)
    angles = [piece.rotary(SHAPE).angles(24, "cpu") for piece in slices]
    for part, expected in zip(zip(*angles, strict=True), whole.rotary(SHAPE).angles(24, "cpu"), strict=True):
        by_stream = [angle.unflatten(0, (2, -1)) for angle in part]
        assert torch.equal(torch.cat(by_stream, dim=1).flatten(0, 1), expected)


def test_tokens_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="24 tokens of a stream .* do not divide among 5"):
        Layout(GRID).over(Peers(0, 5, torch.clone))


@pytest.mark.parametrize("wanted", [(True, True), (False, True)])
def test_attention_over_slices_is_attention_over_the_whole(wanted):
    """Four processes as threads, whose parts travel over a table; and the gathered result is the whole's."""
    torch.manual_seed(0)
    shape = replace(SHAPE, num_heads=4)
    attention, x = SelfAttention(shape).requires_grad_(False), torch.randn(4, 24, shape.dim)
    whole = Layout(GRID, wanted)
    expected = whole.groups(attention(whole.samples(x), whole))
    table, barrier = [torch.empty(0)] * 4, threading.Barrier(4, timeout=30)

    def process(rank: int) -> torch.Tensor:
        def exchange(parts: torch.Tensor) -> torch.Tensor:
            table[rank] = parts
            barrier.wait()
            received = torch.stack([sent[rank] for sent in table])
            barrier.wait()
            return received

        piece = whole.over(Peers(rank, 4, exchange))
        found = attention(piece.samples(piece.cut(x)), piece)
        return piece.whole(piece.groups(found))

    with torch.no_grad(), ThreadPoolExecutor(4) as threads:
        for found in threads.map(process, range(4)):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)

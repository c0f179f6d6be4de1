"""qk_norm_rope: several streams, head sizes and slices of the tokens."""

import pytest
import torch

from unity.kernels import reference
from unity.kernels.qk_norm_rope import qk_norm_rope, refusal
from unity.kernels.rotary import Rotary

# samples, where the tokens lie, head size
CASES = [
    (2, Rotary((2, 1, 3), 2, 3), 24),
    (1, Rotary((1, 2, 1), 2, 12), 128),
    (1, Rotary((1, 3, 1), 1, 5), 96),
    (1, Rotary((2, 3, 2), 2, 2, first=5, count=4), 48),
]
# values of these in `make test`, of all of them in `make test-all`
QUICK = CASES[1], CASES[3]
SMALL = Rotary((1, 2, 2), 1, 2)


def inputs_of(batch, rotary, head, dtype=torch.float32):
    width = rotary.num_heads * head
    packed = torch.randn(batch, rotary.tokens, 2 * width).to(dtype)
    return [*packed.split(width, -1), *torch.randn(2, width).unbind(0)]


def _marked(quick):
    return [pytest.param(case, marks=[] if case in quick else [pytest.mark.slow], id=str(case)) for case in CASES]


@pytest.mark.parametrize("case", _marked(QUICK))
def test_values_and_gradients(case, agree, monkeypatch):
    inputs = inputs_of(*case)
    assert refusal(*inputs, case[1]) is None
    monkeypatch.setattr(torch.Tensor, "contiguous", None)
    agree(
        lambda *x: qk_norm_rope(*x, case[1]),
        lambda *x: reference.qk_norm_rope(*x, case[1]),
        [x.detach() for x in inputs],
    )


@pytest.mark.slow
def test_slices_have_the_bits_of_the_whole():
    """Of each stream the tokens 0 to 4, and 5 to 11, forward and backward."""
    whole = Rotary((2, 3, 2), 2, 2)
    q, k, *weights = (x.detach() for x in inputs_of(2, whole, 24))
    slopes = torch.randn(2, 2, whole.tokens, 2, 24)

    def run(rotary, cut):
        x = [cut(z).requires_grad_() for z in (q, k)]
        out = qk_norm_rope(*x, *weights, rotary)
        return *out, *torch.autograd.grad(out, x, [cut(z) for z in slopes])

    truth = run(whole, lambda z: z.clone())
    for first, count in ((0, 5), (5, 7)):

        def cut(z, first=first, count=count):
            return z.unflatten(1, (2, -1))[:, :, first : first + count].flatten(1, 2)

        for ours, full in zip(run(Rotary((2, 3, 2), 2, 2, first=first, count=count), cut), truth, strict=True):
            assert torch.equal(ours, cut(full))


def test_bf16_with_bf16_weights(agree):
    rotary = Rotary((1, 2, 2), 1, 3)
    q, k, *weights = inputs_of(1, rotary, 48, torch.bfloat16)
    agree(
        lambda *x: qk_norm_rope(*x, rotary),
        lambda *x: reference.qk_norm_rope(*x, rotary),
        [q.detach(), k.detach(), *(w.bfloat16() for w in weights)],
    )


@pytest.mark.parametrize("case", _marked(QUICK[:1]))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_place_has_the_bits_of_new_tensors(case, dtype):
    q, k, *weights = inputs_of(*case, dtype)
    truth = qk_norm_rope(q, k, *weights, case[1])
    for x, found, new in zip((q, k), qk_norm_rope(q, k, *weights, case[1], inplace=True), truth, strict=True):
        assert torch.equal(found, new) and found.data_ptr() == x.data_ptr()
    with pytest.raises(ValueError, match="requires a gradient"):
        qk_norm_rope(q.requires_grad_(), k, *weights, case[1], inplace=True)


@pytest.mark.slow
def test_one_node_under_compile(traces):
    rotary = Rotary((1, 2, 2), 2, 2)
    traces(lambda *x: qk_norm_rope(*x, rotary), [x.detach() for x in inputs_of(1, rotary, 24)])


@pytest.mark.slow
def test_registration():
    inputs = [x.detach().requires_grad_() for x in inputs_of(1, SMALL, 24)]
    torch.library.opcheck(
        torch.ops.unity.qk_norm_rope.default,
        (*inputs, SMALL.sizes, 1e4, 1e-6),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static"),
    )


def test_a_grid_of_another_size_is_an_error():
    with pytest.raises(ValueError, match="4 tokens are not 2 streams"):
        qk_norm_rope(*inputs_of(1, SMALL, 24), Rotary((1, 2, 2), 2, 2))


def test_refusals_say_why():
    inputs = inputs_of(1, SMALL, 24)
    assert "multiple of 8" in refusal(*(x[..., :20] for x in inputs), SMALL)
    assert "meta" in refusal(*(x.to("meta") for x in inputs), SMALL)

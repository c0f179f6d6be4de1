"""How the tokens of a model lie, and what its blocks are told about them.

Letters: b batch, s streams, g = b·s groups, k the groups of wanted streams, l tokens of a stream, d width. The
values are named tuples, so that ZeRO-3's hooks find the tensors in what modules take and give.
"""

from typing import NamedTuple

from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from unity.config import ModelConfig
from unity.model.sequence import Peers
from unity.ops import Quantized, Rotary


class Layout(NamedTuple):
    """Tokens [rgb ‖ aux] per sample: of each stream those from `start` to `stop` of its grid (t, h, w).

    By default a stream's tokens are all here; of a sequence that is cut over processes, each holds the same slice
    of every stream. `wanted` has an entry per stream: whether its velocity is asked for.
    """

    grid: tuple[int, int, int]
    wanted: tuple[bool, ...] = (True, True)
    start: int = 0
    # None: the end of the grid
    stop: int | None = None
    # who holds the other slices
    peers: Peers | None = None

    @property
    def streams(self) -> int:
        return len(self.wanted)

    @property
    def tokens(self) -> int:
        """Of one stream, in this slice."""
        t, h, w = self.grid
        return (t * h * w if self.stop is None else self.stop) - self.start

    def rotary(self, config: ModelConfig) -> Rotary:
        """The positions of these tokens, for queries and keys of a model."""
        return Rotary(self.grid, self.streams, config.num_heads, config.rope_theta, self.start, self.tokens)

    def over(self, peers: Peers) -> "Layout":
        """This process's slice of the tokens; ValueError where they cannot be cut into equal ones."""
        share, rest = divmod(self.tokens, peers.size)
        if rest:
            raise ValueError(
                f"the {self.tokens} tokens of a stream (t, h, w {self.grid}) do not divide among {peers.size} "
                f"processes; choose a video size, or a --sequence-parallel, so that they do"
            )
        start = self.start + peers.rank * share
        return self._replace(start=start, stop=start + share, peers=peers)

    def cut(self, x: Shaped[Tensor, "g n d"]) -> Shaped[Tensor, "g l d"]:
        """Of all n tokens of each stream those of this slice."""
        return x if self.peers is None else x[:, self.start : self.stop].contiguous()

    def whole(self, x: Float[Tensor, "g l d"]) -> Float[Tensor, "g n d"]:
        """All n tokens of each stream, from every process's slice of them."""
        return x if self.peers is None else self.peers.gather(x)

    def of_all(self) -> "Layout":
        """The same tokens, every stream wanted."""
        return self._replace(wanted=(True,) * self.streams)

    def pick(self, x: Shaped[Tensor, "g ..."]) -> Shaped[Tensor, "k ..."]:
        """The groups of the wanted streams, as a view: all of them, or those of one stream."""
        return x if all(self.wanted) else x.unflatten(0, (-1, self.streams))[:, self.wanted.index(True)]

    def pick_tokens(self, x: Float[Tensor, "b l ..."]) -> Float[Tensor, "b m ..."]:
        """Of every sample's tokens those of the wanted streams, as a view."""
        return x if all(self.wanted) else x.unflatten(1, (self.streams, -1))[:, self.wanted.index(True)]

    def samples(self, x: Tensor | Quantized) -> Tensor | Quantized:
        """Groups [g, l, …] as samples [b, streams·l, …]: a view."""

        def joined(part: Tensor) -> Tensor:
            return rearrange(part, "(b s) l ... -> b (s l) ...", s=self.streams)

        return Quantized(*map(joined, x)) if isinstance(x, Quantized) else joined(x)

    def groups(self, x: Float[Tensor, "b m d"]) -> Float[Tensor, "k l d"]:
        """Samples [b, streams·l, d], of the wanted streams alone, as groups [k, l, d]: a view."""
        return rearrange(x, "b (s l) d -> (b s) l d", s=sum(self.wanted))


class Conditioning(NamedTuple):
    """What the tokens of every (sample, stream) are modulated by, and the text that they read."""

    # the time's share of shifts, scales and gates, float32
    modulation: Float[Tensor, "b s p d"]
    # which entry of the learned tables a stream takes: its modality, or the last for RGB
    stream_id: Int[Tensor, "b s"]
    # keys and values of cross-attention, and the bias on their logits (unity.ops.dual_cross_attention)
    text: Float[Tensor, "g m d"]
    bias: Float[Tensor, "g m"]


class Pending(NamedTuple):
    """A residual, and the last sublayer's output and gate, not yet added to it: x + gate·y is still to be formed.

    Each boundary between two sublayers, also between two blocks, is then one pass over memory.
    """

    x: Float[Tensor, "g l d"]
    y: Float[Tensor, "g l d"] | None = None
    gate: Float[Tensor, "g d"] | None = None

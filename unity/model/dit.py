"""UnityDiT: one transformer over two video streams at a time (paper, section 3)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from unity.config import ModelConfig
from unity.model.layers import (
    Block,
    FeedForward,
    Head,
    Linear32,
    PatchEmbedding,
    add_and_norm,
    rows,
    time_features,
)
from unity.model.layout import Conditioning, Layout, Pending
from unity.model.sequence import Peers
from unity.model.stem import Stem, StemHead

# Below it a predicted clean latent is taken as one of this time, so that no error is enlarged without bound.
_LEAST_TIME = 0.1


class UnityDiT(nn.Module):
    """Velocities of the RGB stream and one auxiliary stream.

    Tokens lie as [rgb ‖ aux] per sample; aux tokens have rotary width positions after the RGB ones, which is
    concatenation along width. All that differs by stream is a view of `(b s) l d`. Modality ids index
    `unity.modality.table.MODALITIES`; the id after the last modality is RGB's own.
    """

    # the processes that take a slice of the tokens each through the blocks; latents and velocities are whole
    peers: Peers | None = None

    def __init__(self, config: ModelConfig, finish: Callable[[Block], Block] = lambda block: block):
        """`finish` changes each block as soon as it is made, before the next takes memory."""
        super().__init__()
        self.config = config
        modalities = config.num_modalities
        self.rgb_id = modalities
        self.stem = Stem(config, modalities + 1) if config.stem else None
        self.patch_embedding = None if config.stem else PatchEmbedding(config)
        self.patch_embedding_aux = PatchEmbedding(config, modalities) if config.input == "expert" else None
        self.text_embedding = FeedForward(config.text_dim, config.dim, config.dim, std=0.02)
        self.time_embedding = nn.Sequential(
            Linear32(config.freq_dim, config.dim, std=0.02),
            nn.SiLU(),
            Linear32(config.dim, config.dim, std=0.02),
        )
        parts = 9 if config.cross_modulation else 6
        self.time_projection = nn.Sequential(nn.SiLU(), Linear32(config.dim, parts * config.dim, std=0.0))
        self.modality_embedding = nn.Parameter(torch.zeros(modalities + 1, config.dim))
        self.blocks = nn.ModuleList(finish(Block(config, modalities + 1)) for _ in range(config.num_layers))
        self.stem_head = StemHead(config, modalities + 1) if config.stem else None
        self.head = None if config.stem else Head(config)
        self.head_aux = Head(config, modalities) if config.output == "expert" and not config.stem else None

    # the tensors stand side by side, as DeepSpeed and torch.compile want a module's inputs
    def forward(
        self,
        rgb: Float[Tensor, "b c t h w"],
        aux: Float[Tensor, "b c t h w"] | None,
        time: Float[Tensor, "b s"],
        modality: Int[Tensor, " b"] | None,
        caption: Float[Tensor, "b m e"],
        caption_len: Int[Tensor, " b"],
        prompt: Float[Tensor, "b p e"] | None = None,
        prompt_len: Int[Tensor, " b"] | None = None,
        wanted: tuple[bool, bool] = (True, True),
    ) -> tuple[Float[Tensor, "b c t h w"], Float[Tensor, "b c t h w"] | None]:
        """Velocities (noise - data) of both streams in float32; RGB alone when `aux` is None.

        `time` is each stream's noise level in [0, 1], 1 = noise. Text states count up to their lengths; the
        model pads them to `text_len` zeros, of which attention sees one key with the weight of all. A stream that
        is not `wanted` may come back as zeros: the last block then takes only keys and values from it. They belong
        into the loss, times 0, all the same: under ZeRO-3 every parameter takes part in every backward.
        """
        latents = (rgb,) if aux is None else (rgb, aux)
        layout = self._layout(latents, wanted)
        output_id = self._stream_ids(rgb, modality)
        stream_id = output_id if self.config.switcher else torch.full_like(output_id, self.rgb_id)
        if not self.config.in_context_learner:
            prompt, prompt_len = caption, caption_len
        embedded = self.time_embedding(time_features(time, self.config.freq_dim))
        embedded = embedded + rows(self.modality_embedding, stream_id).float()
        modulation = rearrange(self.time_projection(embedded), "b s (p d) -> b s p d", d=self.config.dim)
        text = self._text([(caption, caption_len), (prompt, prompt_len)][: layout.streams])
        given = Conditioning(modulation, stream_id, *text)

        if self.stem is None:
            pending, around = Pending(self._tokens(latents, modality, layout)), None
        else:
            said = F.silu(rearrange(embedded, "b s d -> (b s) d"))
            tokens, features = self.stem(torch.stack(latents, dim=1), stream_id, said)
            pending, around = Pending(layout.cut(tokens)), (features, self._heads_of(output_id).flatten(), said)
        for block in self.blocks[:-1]:
            pending = block(pending, given, layout.of_all())
        pending = self.blocks[-1](pending, given, layout)
        if self.stem_head is None or around is None:
            outputs = self._heads(pending, embedded, modality, layout)
        else:
            found = self.stem_head(pending, *map(layout.pick, around), layout)
            computed = iter(found.unflatten(0, (-1, sum(layout.wanted))).unbind(1))
            outputs = [next(computed) if asked else found[:0] for asked in layout.wanted]
        velocities = map(self._velocity, outputs, latents, time.unbind(1))
        return next(velocities), next(velocities, None)

    def _layout(self, latents: tuple[Tensor, ...], wanted: tuple[bool, bool]) -> Layout:
        shapes = [tuple(latent.shape) for latent in latents]
        if shapes[0] != shapes[-1]:
            raise ValueError(f"rgb latent {shapes[0]} and aux latent {shapes[-1]} must be equal in shape")
        sizes = shapes[0][2:]
        if any(size % p for size, p in zip(sizes, self.config.patch, strict=True)):
            raise ValueError(
                f"latent of {sizes} (t, h, w) does not divide into patches of {self.config.patch}; "
                "choose a video size that does"
            )
        # separate cross-attentions and a stem must take part in every step on every rank, as experts must
        if self.config.cross_attention == "separate" or (self.config.stem and torch.is_grad_enabled()):
            wanted = (True, True)
        t, h, w = (size // p for size, p in zip(sizes, self.config.patch, strict=True))
        layout = Layout((t, h, w), wanted[: len(latents)])
        return layout if self.peers is None else layout.over(self.peers)

    def _stream_ids(self, rgb: Tensor, modality: Tensor | None) -> Int[Tensor, "b s"]:
        rgb_id = torch.full((len(rgb),), self.rgb_id, device=rgb.device)
        return rgb_id.unsqueeze(1) if modality is None else torch.stack((rgb_id, modality), dim=1)

    def _heads_of(self, output_id: Int[Tensor, "b s"]) -> Int[Tensor, "b s"]:
        """Which of the stem's output projections each stream goes through: RGB's, where one serves all."""
        return output_id if self.config.output == "expert" else torch.full_like(output_id, self.rgb_id)

    def _tokens(
        self, latents: tuple[Tensor, ...], modality: Tensor | None, layout: Layout
    ) -> Float[Tensor, "g l d"]:
        assert self.patch_embedding is not None
        tokens = [self.patch_embedding(latents[0], layout)]
        for aux in latents[1:]:
            if self.patch_embedding_aux is None:
                tokens.append(self.patch_embedding(aux, layout))
            else:
                tokens.append(self.patch_embedding_aux(aux, layout, modality))
        return rearrange(tokens, "s b l d -> (b s) l d")

    def _text(self, branches: list[tuple[Tensor, Tensor]]) -> tuple[Float[Tensor, "g m d"], Float[Tensor, "g m"]]:
        """Keys for both branches: the real tokens, then one zero token that stands for all the padding."""
        longest = max(states.shape[1] for states, _ in branches)
        padded = [F.pad(states, (0, 0, 0, longest + 1 - states.shape[1])) for states, _ in branches]
        states = rearrange(padded, "s b m e -> (b s) m e")
        length = rearrange([length for _, length in branches], "s b -> (b s)")
        if longest > self.config.text_len:
            raise ValueError(f"text of {longest} tokens is longer than the model's {self.config.text_len}; cut it")
        absent = torch.arange(longest, device=states.device) >= length.unsqueeze(1)
        bias = torch.zeros_like(absent, dtype=torch.float32).masked_fill(absent, -torch.inf)
        padding = (self.config.text_len - length).float().log().unsqueeze(1)
        text = self.text_embedding(states.to(self.modality_embedding.dtype))
        return text, torch.cat((bias, padding), dim=1)

    def _heads(
        self, pending: Pending, embedded: Float[Tensor, "b s d"], modality: Tensor | None, layout: Layout
    ) -> list[Float[Tensor, "n c t h w"]]:
        """The last residual, normalised and modulated per stream, through the stream's own head.

        A stream that is not wanted goes through its head with no samples: parameters must take part in every step
        (see PatchEmbedding).
        """
        assert self.head is not None
        heads: list[tuple[Head, Tensor | None]] = [(self.head, None)]
        if modality is not None:
            heads.append((self.head, None) if self.head_aux is None else (self.head_aux, modality))
        shift, scale = map(layout.pick, self._head_modulation(heads, embedded))
        _, h = add_and_norm(pending, scale, shift, self.config.eps)
        computed = iter(rearrange(h, "(b s) l d -> s b l d", s=sum(layout.wanted)))
        outputs = []
        for (head, expert), wanted in zip(heads, layout.wanted, strict=True):
            x = next(computed) if wanted else h[:0]
            patches = head(x, None if expert is None else expert[: len(x)])
            outputs.append(self._unpatchify(layout.whole(patches).float(), layout.grid))
        return outputs

    def _head_modulation(self, heads: list, embedded: Float[Tensor, "b s d"]) -> tuple[Tensor, Tensor]:
        parts = []
        for (head, expert), stream in zip(heads, embedded.unbind(1), strict=True):
            index = torch.zeros_like(stream[:, 0], dtype=torch.long) if expert is None else expert
            parts.append(head.modulation(rearrange(stream, "b d -> b 1 1 d"), index.unsqueeze(1)))
        shift, scale = (rearrange(list(part), "s b d -> (b s) d") for part in zip(*parts, strict=True))
        return shift, scale

    def _velocity(
        self, output: Float[Tensor, "n c t h w"], latent: Float[Tensor, "b c t h w"], time: Float[Tensor, " b"]
    ) -> Float[Tensor, "b c t h w"]:
        """The head's output, or what follows from it where the head gives the clean latent; zeros beyond n."""
        n = len(output)
        if self.config.prediction == "data":
            output = (latent[:n].float() - output) / time[:n].clamp_min(_LEAST_TIME).view(-1, 1, 1, 1, 1)
        return output if n == len(latent) else torch.cat((output, torch.zeros_like(latent[n:]).float()))

    def _unpatchify(
        self, patches: Float[Tensor, "b l e"], grid: tuple[int, int, int]
    ) -> Float[Tensor, "b c t h w"]:
        t, h, w = grid
        p, q, r = self.config.patch
        return rearrange(patches, "b (t h w) (p q r c) -> b c (t p) (h q) (w r)", t=t, h=h, w=w, p=p, q=q, r=r)

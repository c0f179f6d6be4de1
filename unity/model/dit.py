"""UnityDiT: one transformer over two video streams at a time (paper, section 3)."""

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
    pick,
    time_features,
)

# Below it a predicted clean latent is taken as one of this time, so that no error is enlarged without bound.
_LEAST_TIME = 0.1


class UnityDiT(nn.Module):
    """Velocities of the RGB stream and one auxiliary stream.

    Tokens lie as [rgb ‖ aux] per sample; aux tokens have rotary width positions after the RGB ones, which is
    concatenation along width. All that differs by stream is a view of `(b s) l d`. Modality ids index
    `unity.modality.table.MODALITIES`; the row after the last modality is RGB's own.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        modalities = config.num_modalities
        self.rgb_row = modalities
        self.patch_embedding = PatchEmbedding(config)
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
        self.blocks = nn.ModuleList(Block(config, modalities + 1) for _ in range(config.num_layers))
        self.head = Head(config)
        self.head_aux = Head(config, modalities) if config.output == "expert" else None

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
        grid = self._grid(rgb, aux)
        streams = 1 if aux is None else 2
        row = self._rows(rgb, modality)
        embedded = self.time_embedding(time_features(time, self.config.freq_dim))
        embedded = embedded + self.modality_embedding[row].float()
        modulation = rearrange(self.time_projection(embedded), "b s (p d) -> b s p d", d=self.config.dim)
        text, bias = self._text([(caption, caption_len), (prompt, prompt_len)][:streams])

        x, y, gate = self._tokens(rgb, aux, modality), None, None
        for block in self.blocks[:-1]:
            x, y, gate = block(x, y, gate, modulation, row, text, bias, grid)
        # with separate cross-attentions both must take part in every step on every rank, as experts must
        wanted = wanted[:streams] if self.config.cross_attention == "shared" else (True,) * streams
        x, y, gate = self.blocks[-1](x, y, gate, modulation, row, text, bias, grid, wanted)
        outputs = self._heads(x, y, gate, embedded, modality, grid, wanted)
        velocities = map(self._velocity, outputs, (rgb, aux), time.unbind(1))
        return next(velocities), next(velocities, None)

    def _grid(self, rgb: Tensor, aux: Tensor | None) -> tuple[int, int, int]:
        if aux is not None and aux.shape != rgb.shape:
            raise ValueError(
                f"rgb latent {tuple(rgb.shape)} and aux latent {tuple(aux.shape)} must be equal in shape"
            )
        sizes = tuple(rgb.shape[2:])
        if any(size % p for size, p in zip(sizes, self.config.patch, strict=True)):
            raise ValueError(
                f"latent of {sizes} (t, h, w) does not divide into patches of {self.config.patch}; "
                "choose a video size that does"
            )
        return tuple(size // p for size, p in zip(sizes, self.config.patch, strict=True))

    def _rows(self, rgb: Tensor, modality: Tensor | None) -> Int[Tensor, "b s"]:
        row = torch.full((len(rgb),), self.rgb_row, device=rgb.device)
        return row.unsqueeze(1) if modality is None else torch.stack((row, modality), dim=1)

    def _tokens(self, rgb: Tensor, aux: Tensor | None, modality: Tensor | None) -> Float[Tensor, "g l d"]:
        tokens = self.patch_embedding(rgb)
        if aux is None:
            return tokens
        if self.patch_embedding_aux is None:
            aux_tokens = self.patch_embedding(aux)
        else:
            aux_tokens = self.patch_embedding_aux(aux, modality)
        return rearrange([tokens, aux_tokens], "s b l d -> (b s) l d")

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
        text = self.text_embedding(states.to(self.text_embedding[0].weight.dtype))
        return text, torch.cat((bias, padding), dim=1)

    def _heads(
        self,
        x: Tensor,
        y: Tensor,
        gate: Tensor,
        embedded: Tensor,
        modality: Tensor | None,
        grid: tuple[int, int, int],
        wanted: tuple[bool, ...],
    ) -> list[Tensor]:
        """The last residual, normalised and modulated per stream, through the stream's own head.

        A latent per stream, or the number 0 for one that is not wanted.
        """
        heads = [(self.head, None)]
        if modality is not None:
            heads.append((self.head, None) if self.head_aux is None else (self.head_aux, modality))
        shift, scale = (pick(table, wanted) for table in self._head_modulation(heads, embedded))
        _, h = add_and_norm(x, y, gate, scale, shift, self.config.eps)
        streams = iter(rearrange(h, "(b s) l d -> s b l d", s=sum(wanted)))
        outputs = []
        for (head, expert), stays in zip(heads, wanted, strict=True):
            if stays:
                outputs.append(self._unpatchify(head(next(streams), expert).float(), grid))
            else:
                # 0, the sum of nothing: parameters must take part in every step (see PatchEmbedding)
                outputs.append(head(h[:0], None if expert is None else expert[:0]).float().sum())
        return outputs

    def _head_modulation(self, heads: list, embedded: Float[Tensor, "b s d"]) -> tuple[Tensor, Tensor]:
        parts = []
        for (head, expert), stream in zip(heads, embedded.unbind(1), strict=True):
            row = torch.zeros_like(stream[:, 0], dtype=torch.long) if expert is None else expert
            parts.append(head.modulation(rearrange(stream, "b d -> b 1 1 d"), row.unsqueeze(1)))
        shift, scale = (rearrange(list(part), "s b d -> (b s) d") for part in zip(*parts, strict=True))
        return shift, scale

    def _velocity(self, output: Tensor, latent: Tensor, time: Float[Tensor, " b"]) -> Tensor:
        """The head's output, or what follows from it where the head gives the clean latent."""
        if self.config.prediction == "velocity" or output.ndim == 0:
            return output.expand_as(latent)
        return (latent.float() - output) / time.clamp_min(_LEAST_TIME).view(-1, 1, 1, 1, 1)

    def _unpatchify(
        self, patches: Float[Tensor, "b l e"], grid: tuple[int, int, int]
    ) -> Float[Tensor, "b c t h w"]:
        t, h, w = grid
        p, q, r = self.config.patch
        return rearrange(patches, "b (t h w) (p q r c) -> b c (t p) (h q) (w r)", t=t, h=h, w=w, p=p, q=q, r=r)

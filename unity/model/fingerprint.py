"""What tells the weights of an encoder from others: a SHA-256, of a file's bytes or of built-in constants."""

import hashlib
import json
from pathlib import Path

from unity.files import sha256
from unity.modality.table import MODALITIES
from unity.model import codec, dct, hub, text

# what of a repository an encoder is loaded from
_PARTS = {"wan2.1": ("vae",), "wan2.2": ("vae",), "umt5": ("text_encoder", "tokenizer")}
_REPOSITORIES = {**{name: row[0] for name, row in codec.WAN.items()}, "umt5": text.UMT5_REPO}


def fingerprint(name: str, weights: Path | None = None) -> str | None:
    """Of the codec or text encoder `name` with these weights (see `load_codec` and `load_text`), nothing loaded.

    None where the files are not on this machine. The same tensors in other files count as others.
    """
    if name not in _PARTS:
        return _digest(_BUILT_IN[name]().encode())
    folders = [hub.here(weights or Path(_REPOSITORIES[name]), part) for part in _PARTS[name]]
    files = [sorted(path for path in folder.rglob("*") if path.is_file()) for folder in folders if folder]
    if len(files) < len(folders) or not all(files):
        return None
    rows = [(path.name, sha256(path)) for path in dict.fromkeys(path for part in files for path in part)]
    return _digest(json.dumps(rows).encode())


def _cells() -> str:
    spreads = {"rgb": codec.RGB_SPREAD, **{name: row.spread for name, row in MODALITIES.items()}}
    return json.dumps(["cells", codec.CELL, spreads])


def _dct() -> str:
    return json.dumps(["dct", dct.PATCH, dct.ROWS, dct.DC_MEAN])


def _minilm() -> str:
    # the only file that `load_text` takes
    return f"minilm {text.MINILM_SHA256}"


_BUILT_IN = {"cells": _cells, "dct": _dct, "minilm": _minilm}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

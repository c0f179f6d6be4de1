"""What a file given as weights really is: told by how it begins and by the names in it, never by its suffix."""

from collections.abc import Collection
from pathlib import Path

# how a file begins, after so many bytes → what it is, and what to do
_BEGINNINGS: list[tuple[int, bytes, str]] = [
    (0, b"version https://git-lfs", "a git-lfs pointer and not the weights: run `git lfs pull` in its repository"),
    (0, b"/annex/objects", "a git-annex pointer and not the weights: run `git annex get` in its repository"),
    (0, b"GGUF", "quantised for llama.cpp (gguf): take the safetensors that it was made of"),
    (0, b"GGML", "quantised for llama.cpp (ggml): take the safetensors that it was made of"),
    (0, b"\x89HDF", "an HDF5 file, as Keras writes: convert it to safetensors"),
    (0, b"\x93NUMPY", "one numpy array: weights are safetensors, or a .pt of a state dict"),
    (0, b"\x1f\x8b", "compressed (gzip): unpack it and give what is inside"),
    (0, b"BZh", "compressed (bzip2): unpack it and give what is inside"),
    (0, b"\xfd7zXZ", "compressed (xz): unpack it and give what is inside"),
    (0, b"7z\xbc\xaf", "an archive (7z): unpack it and give what is inside"),
    (0, b"Rar!", "an archive (rar): unpack it and give what is inside"),
    (0, b"\x28\xb5\x2f\xfd", "compressed (zstandard): unpack it and give what is inside"),
    (257, b"ustar", "an archive (tar), or a checkpoint of torch before 0.2: unpack it and give what is inside"),
    (0, b"%PDF", "a PDF document: give the weights"),
    (0, b"\x7fELF", "a program: give the weights"),
    (0, b"MZ", "a program: give the weights"),
    (0, b"\x89PNG", "a picture: give the weights"),
    (0, b"\xff\xd8\xff", "a picture: give the weights"),
    (0, b"GIF8", "a picture: give the weights"),
    (0, b"RIFF", "a picture, sound or video: give the weights"),
    (4, b"ftyp", "a video: give the weights as the checkpoint, and videos as --video"),
    (0, b"\x1aE\xdf\xa3", "a video: give the weights as the checkpoint, and videos as --video"),
    (0, b"\x00\x00\x00\x00\x00\x00\x00\x00", "filled with zeros: its download did not end, fetch it again"),
]
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head")
# names of tensors → whose they are, and what to do; the first that matches decides
_STRANGERS: list[tuple[tuple[str, ...], str]] = [
    (
        ("lora_", ".lora", "hada_", "lokr_", ".diff_b", ".dora_scale"),
        "an adapter (LoRA) and not a whole model: merge it into the model that it was trained on and give that",
    ),
    (("exp_avg", "param_groups", "momentum_buffer"), "an optimizer's state: give the model's weights beside it"),
    (
        ("scale_weight", "weight_scale", "qweight", ".absmax", "qzeros"),
        "quantised: give the weights in bf16 or fp32",
    ),
    (("vace_",), "Wan's VACE, which has inputs that this model has not: take a text-to-video one"),
    (
        ("img_emb.", "image_embedder", "k_img", "add_k_proj", "image_embed"),
        "an image-to-video Wan, which has inputs that this model has not: take a text-to-video one",
    ),
    (("control_", "controlnet", "input_hint_block"), "a ControlNet: take a text-to-video Wan"),
    (
        ("double_blocks.", "single_blocks.", "txt_in."),
        "Flux or HunyuanVideo: take Wan, or a model of this project",
    ),
    (
        ("joint_blocks.", "transformer_blocks."),
        "another diffusion transformer: take Wan, or a model of this project",
    ),
    (("input_blocks.", "down_blocks.", "up_blocks."), "a U-Net, as Stable Diffusion's: take Wan"),
    (
        ("token_embedding.weight", "shared.weight", "encoder.block.", "wte.weight", "embed_tokens"),
        "a language model or text encoder: give it as --text-weights, and the transformer here",
    ),
    (("text_model.", "visual."), "CLIP: take Wan, or a model of this project"),
    (
        (
            "quant_conv",
            "decoder.conv",
            "encoder.conv",
            "decoder.up",
            "encoder.down",
            "decoder.middle",
            "conv1.weight",
        ),
        "a video or picture codec (VAE): give it as --codec-weights, and the transformer here",
    ),
]


def kind_of(path: Path) -> str:
    """`safetensors`, `zip` or `pickle`. Raises ValueError, with what the file is, for anything else."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(512)
    if not size:
        raise ValueError(f"{path} is empty: its download or copy did not end, fetch it again")
    # a header of JSON behind its length; its own reader says what is wrong with it
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 40:
        return "safetensors"
    if start.startswith(_ZIP):
        return "zip"
    for offset, mark, what in _BEGINNINGS:
        if start[offset:].startswith(mark):
            raise ValueError(f"{path} is {what}")
    if start.startswith(_PICKLE) and len(start) > 1 and 2 <= start[1] <= 5:
        return "pickle"
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        raise ValueError(f"{path} is a web page, saved in place of the weights: download the file itself")
    if _is_text(start):
        raise ValueError(
            f"{path} cannot be read as weights, it is text: give a model folder, a .safetensors or a .pt file"
        )
    raise ValueError(
        f"{path} is no file of weights that is known here; give a model folder, a .safetensors or a .pt file"
    )


def stranger(names: Collection[str]) -> str:
    """Whose tensors these are, in words, where the layout is unknown."""
    for marks, what in _STRANGERS:
        if any(mark in name for mark in marks for name in names):
            return what
    few = ", ".join(repr(name[:60]) for name in sorted(names)[:3])
    return f"in an unknown layout of weights (it has {few or 'no tensors'}): take Wan, or a model of this project"


def _is_text(start: bytes) -> bool:
    try:
        # the last character may be cut in two
        words = start.decode(errors="strict") if len(start) < 512 else start[:508].decode(errors="ignore")
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c.isspace() for c in words)

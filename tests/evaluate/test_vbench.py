"""VBench's dimensions against its own steps, written out, and against networks of random weights."""

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig, ViTConfig, ViTModel

from unity.evaluate.vbench import DIMENSIONS, HEAD, consistency, load_judges, prepared

RANDOM = np.random.default_rng(3)
VIDEO = RANDOM.integers(0, 256, (4, 40, 56, 3)).astype(np.uint8)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("networks")
    seen = {"image_size": 32, "patch_size": 8}
    ViTModel(ViTConfig(**SMALL, **seen), add_pooling_layer=False).save_pretrained(folder / "dino")
    text = CLIPTextConfig(**SMALL, vocab_size=50, max_position_embeddings=8)
    clip = CLIPConfig(text.to_dict(), CLIPVisionConfig(**SMALL, **seen).to_dict(), projection_dim=24)
    CLIPModel(clip).save_pretrained(folder / "clip")
    torch.save(torch.nn.Linear(24, 1).state_dict(), folder / "clip" / HEAD)
    return {"dino": folder / "dino", "clip-b": folder / "clip", "clip-l": folder / "clip"}


def step_by_step(states):
    """The mean as VBench's loop takes it."""
    total = 0.0
    for number in range(1, len(states)):
        pair = [
            torch.nn.functional.cosine_similarity(states[number], states[other], dim=0)
            for other in (number - 1, 0)
        ]
        total += sum(max(0.0, value.item()) for value in pair) / 2
    return total / (len(states) - 1)


def test_consistency_is_with_the_frame_before_and_the_first():
    states = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    assert consistency(states) == pytest.approx(step_by_step(states))
    assert consistency(states[:1]) == 1 and consistency(states[:1].repeat(3, 1)) == pytest.approx(1)


def test_pictures_are_prepared_as_vbench_does():
    transforms = pytest.importorskip("torchvision.transforms", reason="needs pip install torchvision")
    frames = torch.from_numpy(VIDEO).permute(0, 3, 1, 2)
    for mode in ("bilinear", "bicubic"):
        steps = [transforms.Resize(32, transforms.InterpolationMode(mode), antialias=False)]
        steps += [transforms.Lambda(lambda x: x.float().div(255)), transforms.Normalize(*IMAGENET)]
        torch.testing.assert_close(prepared(VIDEO, 32, mode, IMAGENET), transforms.Compose(steps)(frames))


def test_each_dimension_is_of_its_network(weights):
    judges = load_judges(weights, "cpu")
    assert judges.keys() == DIMENSIONS.keys()
    found = {name: judge(VIDEO) for name, judge in judges.items()}
    dino, clip = (
        ViTModel.from_pretrained(weights["dino"]).eval(),
        CLIPModel.from_pretrained(weights["clip-b"]).eval(),
    )
    with torch.no_grad():
        whole = prepared(VIDEO, 32, "bilinear", IMAGENET)
        # the longer side is 44: 4 x 5 patches
        assert whole.shape == (4, 3, 32, 44)
        subject = dino(whole, interpolate_pos_encoding=True).last_hidden_state[:, 0]
        spread = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
        states = clip.get_image_features(prepared(VIDEO, 32, "bicubic", spread)[..., 6:38])
        head = torch.load(weights["clip-l"] / HEAD)
        scores = torch.nn.functional.normalize(states) @ head["weight"].T + head["bias"]
    wanted = {
        "subject": step_by_step(subject),
        "background": step_by_step(states),
        "aesthetic": scores.mean() / 10,
    }
    assert found == pytest.approx({name: float(value) for name, value in wanted.items()}, abs=1e-5)
    assert judges["subject"](VIDEO[:1].repeat(3, 0)) == pytest.approx(1)


def test_a_folder_without_the_network_is_a_sentence(weights, tmp_path):
    with pytest.raises(ValueError, match="holds no ViTModel"):
        load_judges({"dino": tmp_path}, "cpu")
    with pytest.raises(ValueError, match=f"has no {HEAD} that is LAION's"):
        torch.save({"layers.0.weight": torch.zeros(2, 2)}, weights["clip-l"] / "head.pth")
        load_judges({"clip-l": weights["clip-l"]}, "cpu")

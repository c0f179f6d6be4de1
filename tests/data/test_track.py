"""SAM 2 of random weights, told of instances by finders that are made up, beside transformers' own propagation."""

import numpy as np
import pytest

from unity.data.annotate.base import Annotation
from unity.data.annotate.table import ANNOTATORS, annotators
from unity.data.annotate.track import follower, of_joints, of_masks, told_on

torch = pytest.importorskip("torch")

SIDE = 64


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    """A folder with a SAM 2 that is as small as its code allows."""
    from transformers import Sam2ImageProcessorFast, Sam2VideoModel, Sam2VideoProcessor, Sam2VideoVideoProcessor
    from transformers.models.sam2.configuration_sam2 import Sam2HieraDetConfig, Sam2VisionConfig
    from transformers.models.sam2_video import configuration_sam2_video as configuration

    stages = {"blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64]}
    stages |= {"num_attention_heads_per_stage": [1, 1, 1, 1], "window_size_per_stage": [8, 8, 8, 8]}
    hiera = Sam2HieraDetConfig(hidden_size=8, image_size=[SIDE, SIDE], global_attention_blocks=[3], **stages)
    levels = {"backbone_channel_list": [64, 32, 16, 8], "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]}
    wide = {"hidden_size": 128}
    memory = {
        f"memory_{name}": 128 for name in ("attention_hidden_size", "encoder_hidden_size", "fuser_embed_dim")
    }
    memory |= {"memory_attention_num_layers": 1, "memory_attention_feed_forward_hidden_size": 16}
    memory |= {"memory_fuser_intermediate_dim": 16, "memory_attention_rope_feat_sizes": [4, 4]}
    config = configuration.Sam2VideoConfig(
        vision_config=Sam2VisionConfig(backbone_config=hiera, fpn_hidden_size=128, **levels),
        prompt_encoder_config=configuration.Sam2VideoPromptEncoderConfig(image_size=SIDE, **wide),
        mask_decoder_config=configuration.Sam2VideoMaskDecoderConfig(mlp_dim=16, iou_head_hidden_dim=16, **wide),
        image_size=SIDE,
        mask_downsampler_embed_dim=128,
        **memory,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sam2")
    Sam2VideoModel(config).eval().save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    pictures = Sam2ImageProcessorFast(size=size, mask_size={"height": 16, "width": 16})
    Sam2VideoProcessor(pictures, Sam2VideoVideoProcessor(size=size)).save_pretrained(folder)
    return folder


VIDEO = np.random.default_rng(0).integers(0, 255, (5, 48, 80, 3)).astype(np.uint8)


def _people():
    """The first is seen throughout, best on frame 2; the second comes on frame 3; the third goes after frame 2."""
    labels = np.zeros((5, 48, 80), np.uint8)
    for frame, wide in enumerate((6, 8, 12, 8, 6)):
        labels[frame, 4:40, 4 : 4 + wide] = 3
    labels[3:, 4:30, 50:70], labels[:3, 10:40, 30:44], labels[2, 40:44, 30:44] = 7, 9, 9
    return labels


def _load(sam, found):
    load = follower(lambda weights, settings, device: lambda video: Annotation(found))
    return load({"sam2": sam}, {}, "cpu")


def _by_transformers(sam, boxes, start):
    """Logits [n, t, h, w] of instances that are told of on one frame, by the library's own loops."""
    from transformers import Sam2VideoModel, Sam2VideoProcessor

    model, processor = Sam2VideoModel.from_pretrained(sam).eval(), Sam2VideoProcessor.from_pretrained(sam)
    session = processor.init_video_session(list(VIDEO))
    names = list(range(len(boxes)))
    processor.add_inputs_to_inference_session(session, start, names, input_boxes=[boxes])
    found = np.zeros((len(boxes), *VIDEO.shape[:3]))
    for reverse in (False, True):
        for made in model.propagate_in_video_iterator(session, start_frame_idx=start, reverse=reverse):
            large = processor.post_process_masks([made.pred_masks], [[48, 80]], binarize=False)[0][:, 0]
            found[:, made.frame_idx] = large.numpy()
    return found


def test_instances_are_followed_from_where_they_are_large_both_ways(sam):
    labels = _people()
    boxes = of_masks(labels)
    assert boxes[0, 2].tolist() == [4, 4, 16, 40] and not boxes[1, :3].any() and not boxes[2, 3:].any()
    # the first and the third are large on frame 2; for the second another frame is needed
    assert told_on(boxes).tolist() == [2, 3, 2]
    logits = np.zeros((4, *VIDEO.shape[:3]))
    logits[[1, 3]] = _by_transformers(sam, [[4.0, 4, 16, 40], [30.0, 10, 44, 44]], 2)
    logits[[2]] = _by_transformers(sam, [[50.0, 4, 70, 30]], 3)
    made = _load(sam, labels)(VIDEO).values
    np.testing.assert_array_equal(made, logits.argmax(0))
    assert set(np.unique(made)) == {0, 1, 2, 3}


@pytest.mark.slow
def test_an_instance_is_the_same_whoever_is_there_besides(sam):
    """Its pixels, but for those that another one is surer of, are those that it has alone."""
    labels = _people()
    together, alone = (_load(sam, found)(VIDEO).values for found in (labels, np.where(labels == 9, labels, 0)))
    assert not ((together == 3) & (alone != 1)).any() and (together == 3).any(axis=(1, 2)).any()
    assert ((alone == 1) <= (together > 0)).all()
    assert not _load(sam, np.zeros_like(labels))(VIDEO).values.any()


def test_boxes_are_wider_than_joints():
    keypoints = np.zeros((2, 2, 18, 3), np.float32)
    keypoints[1, 0, :3] = [[10, 20, 1], [30, 60, 1], [99, 99, 0]]
    boxes = of_joints(keypoints)
    np.testing.assert_allclose(boxes[0], [[0, 0, 0, 0], [8, 16, 32, 64]])
    assert told_on(boxes).tolist() == [1, -1] and of_joints(keypoints[:, :0]).shape == (0, 2, 4)


def test_sam_is_asked_for_with_who_finds(sam, tmp_path):
    from transformers import Sam2VideoModel

    given = {"sam2": sam, "salient": tmp_path, "mediapipe": tmp_path}
    assert annotators(None, given)["segmentation"].name == "sam2-people"
    assert annotators(None, {"sam2": sam}).keys() == {"flow"}
    with pytest.raises(ValueError, match="sam2-salient wants --weights salient=PATH"):
        annotators(("sam2-salient",), {"sam2": sam})
    model = Sam2VideoModel.from_pretrained(sam)
    state = model.state_dict()
    del state["no_memory_embedding"]
    model.save_pretrained(tmp_path, state_dict=state)
    row = ANNOTATORS["sam2-salient"]
    with pytest.raises(ValueError, match="holds no SAM 2 of videos .it lacks no_memory_embedding"):
        row.load(given | {"sam2": tmp_path}, row.settings, "cpu")
    with pytest.raises(ValueError, match="holds no SAM 2 of videos"):
        row.load(given | {"sam2": tmp_path / "none"}, row.settings, "cpu")

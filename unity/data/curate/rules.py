"""What a clip must be to be kept. Order matters: the first rule that is broken is the reason that is given."""

from unity.data.rules import Rule

RULES = (
    # paper, section 3.4
    Rule(name="seconds", score="seconds", keep="at least", threshold=5.0, reason="it is too short"),
    Rule(name="short_side", score="short_side", keep="at least", threshold=513, reason="its picture is too small"),
    Rule(
        name="aesthetic",
        score="aesthetic",
        keep="at least",
        threshold=80.0,
        reason="it is not pleasing enough to people",
    ),
    Rule(name="text", score="text", keep="at most", threshold=0.002, reason="text is written into it"),
    # asked for by those who use such tools
    Rule(name="black", score="black", keep="at most", threshold=0.1, reason="pictures of it are black"),
    Rule(name="frozen", score="frozen", keep="at most", threshold=0.3, reason="its picture stands still, frozen"),
    Rule(name="still", score="motion", keep="at least", threshold=0.002, reason="next to nothing moves"),
    Rule(name="hectic", score="motion", keep="at most", threshold=1.0, reason="it moves too fast to follow"),
    Rule(name="shaking", score="shake", keep="at most", threshold=0.01, reason="the camera shakes"),
    Rule(name="sharp", score="sharpness", keep="at least", threshold=1.0, reason="it is blurred"),
    Rule(name="nsfw", score="nsfw", keep="at most", threshold=0.5, reason="it may be unfit to be shown", on=False),
    # of two alike the one with the smaller picture is left out; bits of 192 that differ from the nearest one
    Rule(name="duplicate", score="nearest", keep="at least", threshold=13, reason="another one shows the same"),
)

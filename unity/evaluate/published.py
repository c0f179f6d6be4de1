"""The paper's table 1 as it is printed: of UnrealEngine's and real clips, never of ours."""

# column of the table → our words
COLUMNS = (
    "background consistency",
    "aesthetic",
    "overall consistency",
    "dynamic degree",
    "mIoU",
    "mAP",
    "AbsRel",
    "δ<1.25",
)
NOTE = "published, on other data"

# model → numbers by column
ROWS: dict[str, tuple[float | None, ...]] = {
    "Kling 1.6": (95.33, 60.48, 21.76, 47.05, None, None, None, None),
    "Open-Sora 2": (96.51, 61.51, 19.87, 34.48, None, None, None, None),
    "HunyuanVideo-13B": (96.28, 53.45, 22.61, 41.18, None, None, None, None),
    "Wan2.1-14B": (96.78, 63.66, 21.53, 34.31, None, None, None, None),
    "Aether": (95.28, 48.25, 20.26, 37.32, None, None, 0.025, 97.95),
    "FullDiT (control)": (95.58, 54.82, 20.12, 49.50, None, None, None, None),
    "VACE (control)": (93.61, 51.24, 17.52, 61.32, None, None, None, None),
    "DepthCrafter": (None, None, None, None, None, None, 0.065, 96.94),
    "Geo4D": (None, None, None, None, None, None, 0.053, 97.94),
    "SAMWISE": (None, None, None, None, 62.21, 20.12, None, None),
    "SeC": (None, None, None, None, 65.52, 22.23, None, None),
    "UnityVideo, control": (96.04, 54.63, 21.86, 64.42, None, None, None, None),
    "UnityVideo, joint / estimate": (97.44, 64.12, 23.57, 47.76, 68.82, 23.25, 0.022, 98.98),
}
# our measure of each column, and what it is multiplied by; overall consistency is left out (unity.evaluate.vbench)
OURS = {
    "background consistency": ("video", "background", 100.0),
    "aesthetic": ("video", "aesthetic", 100.0),
    "dynamic degree": ("video", "dynamic", 100.0),
    "mIoU": ("segmentation", "miou", 100.0),
    "mAP": ("segmentation", "ap_of_all", 100.0),
    "AbsRel": ("depth", "abs_rel", 1.0),
    "δ<1.25": ("depth", "delta_125", 100.0),
}

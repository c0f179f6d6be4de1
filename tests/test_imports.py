"""Who may import whom, read from the sources: the table is the architecture."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# part of the project → the parts it may import; the longest matching name decides
MAY = {
    "unity.config": {"unity.modality"},
    "unity.randomness": set(),
    "unity.files": set(),
    "unity.command": set(),
    "unity.extras": set(),
    "unity.typed": set(),
    "unity.results": {"unity.files"},
    "unity.modality": set(),
    "unity.tasks": set(),
    "unity.kernels": {"unity.kernels"},
    "unity.native": {"unity.kernels"},
    "unity.flash4": set(),
    "unity.attention": {"unity.kernels", "unity.flash4"},
    "unity.ops": {"unity.kernels", "unity.native", "unity.attention"},
    "unity.flow_matching": {"unity.randomness"},
    "unity.routing": {"unity.flow_matching", "unity.randomness", "unity.tasks"},
    "unity.objective": {"unity.ops", "unity.flow_matching", "unity.routing"},
    "unity.sampler": {"unity.flow_matching", "unity.routing", "unity.randomness", "unity.tasks", "unity.thrift"},
    "unity.model": {"unity.model", "unity.ops", "unity.config", "unity.modality", "unity.tasks"},
    "unity.data": {"unity.data", "unity.config", "unity.modality", "unity.randomness", "unity.typed"},
    # pictures of clips as reports have them
    "unity.data.card": {"unity.data", "unity.config", "unity.modality", "unity.report.strip"},
    # a command, which hands encoders to what does the work
    "unity.data.latents.__main__": {
        "unity.data",
        "unity.config",
        "unity.modality",
        "unity.model",
        "unity.encoders",
    },
    "unity.infer": {"unity"},
    "unity.answer": {"unity"},
    "unity.plan": {"unity"},
    "unity.request": {"unity.thrift"},
    "unity.thrift": set(),
    "unity.jobs": {"unity"},
    "unity.pipeline": {"unity"},
    "unity.windows": {"unity.modality"},
    "unity.reel": {"unity.windows", "unity.modality", "unity.data", "unity.report.strip"},
    "unity.canvas": set(),
    "unity.evaluate": {"unity"},
    # a command that trains, and imports that only when it does
    "unity.evaluate.ablate": {"unity"},
    "unity.apps": {"unity"},
    "unity.report.strip": set(),
    "unity.report": {"unity"},
    "unity.train": {"unity"},
    "unity": set(),
}
# all of the package may import these, but for the kernels, which are torch and triton alone
EVERYWHERE = {"unity.files", "unity.command", "unity.extras"}
# these may import what the row above allows, but never these parts
BUILT_ON_INFERENCE = ("infer", "jobs", "pipeline", "plan", "answer", "evaluate", "report", "apps")
NEVER = {f"unity.{name}": {"unity.train"} for name in BUILT_ON_INFERENCE}
OUTSIDE = {"launchers", "benchmarks", "tests"}
# inference and what is built on it start without these, also indirectly: they are not in the core install
LIGHT = ("infer", "jobs", "generate", "evaluate", "report", "apps")
HEAVY = (
    "unity.train",
    "unity.data.simulate",
    "deepspeed",
    "streaming",
    "nvidia.dali",
    "mujoco",
    "numba",
    "ray",
    "tensorboard",
    "matplotlib",
    "torchvision",
)


def sources():
    for folder in ("unity", "kernels"):
        yield from (p for p in (ROOT / folder).rglob("*.py") if "kernels" not in p.relative_to(ROOT).parts[1:])


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("unity", *parts) if parts[0] == "kernels" else parts
    return ".".join(parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; the project imports absolutely"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def row(name: str) -> str:
    return max((part for part in MAY if within(name, part)), key=len)


def within(name: str, part: str) -> bool:
    return name == part or name.startswith(part + ".")


@pytest.mark.parametrize("path", sorted(sources()), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_table(path):
    name = name_of(path)
    part = row(name)
    for imported in imports(path):
        assert imported.split(".")[0] not in OUTSIDE, f"{name} imports {imported}"
        if within(imported, "deepspeed"):
            assert part == "unity.train", f"only unity.train imports deepspeed, not {name}"
        if not within(imported, "unity"):
            continue
        allowed = MAY[part] | {part} | (EVERYWHERE if part != "unity.kernels" else set())
        assert any(within(imported, other) for other in allowed), (
            f"{name} imports {imported}, but {part} may import only {sorted(allowed)}"
        )
        for never in NEVER.get(part, ()):
            assert not within(imported, never), f"{name} imports {imported}"


def test_light_parts_load_nothing_heavy():
    light = [
        name_of(path)
        for path in sources()
        if name_of(path).split(".")[1:2] and name_of(path).split(".")[1] in LIGHT
    ]
    assert {"unity.infer", "unity.generate", "unity.evaluate.metrics", "unity.report.page"} <= set(light)
    code = f"import sys, {', '.join(light)}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert [name for name in loaded if any(within(name, heavy) for heavy in HEAVY)] == []


def test_the_shipped_model_is_there_without_what_takes_seconds_to_import():
    """Weights, codec and words: `transformers`, or torch's compiler, would double the time to the first step."""
    code = "import sys; from unity.generate import load_generator; from unity.request import SHIPPED\n"
    code += "load_generator(SHIPPED, 'cpu').encoders.words(['a cat']); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "torch" in loaded and not {"transformers", "diffusers", "sklearn", "torch._dynamo"} & set(loaded)


def test_help_is_there_at_once():
    """No torch for a question about flags."""
    code = "import sys, unity.infer; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "tyro" in loaded and not {"torch", "transformers", "diffusers", "scipy"} & set(loaded)


def test_simulation_starts_without_torch():
    """Which takes seconds to load, in every worker."""
    code = "import sys, unity.data.simulate.__main__, unity.data.simulate.dataset; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "mujoco" in loaded and "torch" not in loaded


def test_the_reference_needs_torch_only():
    """And the values that it takes and gives, which every form of an op shares, beside it the standard library."""
    shared = {"rotary", "quantized", "arguments"}
    for part in ("reference", *shared):
        found = imports(ROOT / f"kernels/{part}.py")
        found = {name for name in found if name.split(".")[0] not in sys.stdlib_module_names}
        ours = {name for name in found if name.startswith("unity.kernels.")}
        assert {name.split(".")[2] for name in ours} <= shared
        assert {name.split(".")[0] for name in found - ours} == {"torch"}


@pytest.mark.parametrize("folder", ["kernels", "tests"])
def test_no_init_files(folder):
    assert not list((ROOT / folder).rglob("__init__.py"))

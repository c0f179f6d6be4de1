"""Which code runs: the version that is installed, the commit of a checkout, and whatever differs from that."""

import hashlib
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Revision:
    """The code of a run; all but `digest` is for people."""

    # of the installed package; empty in a checkout that is not installed
    version: str
    # None: not a checkout of git's
    commit: str | None
    # files that git knows and that differ from the commit, and Python files that it does not know
    changed: tuple[str, ...]
    # SHA-256 of the package's Python files
    digest: str

    def __str__(self) -> str:
        if self.commit is None:
            return f"version {self.version or 'unknown'}"
        changed = f", {len(self.changed)} files changed since" if self.changed else ""
        return f"commit {self.commit[:12]}{changed}"


def revision() -> Revision:
    """Of the code that this process has imported."""
    commit = _git("rev-parse", "HEAD").strip() or None
    changed = _git("diff", "HEAD", "--name-only").splitlines() if commit else []
    if commit:
        changed += _git("ls-files", "--others", "--exclude-standard", "--", "*.py").splitlines()
    return Revision(version=_version(), commit=commit, changed=tuple(changed), digest=digest())


def difference() -> str:
    """What differs from the commit, as a patch; empty where nothing does, or where there is no commit."""
    return _git("diff", "HEAD", "--binary")


def digest() -> str:
    """SHA-256 of the package's Python files, their names and contents."""
    found = hashlib.sha256()
    package = ROOT / "unity"
    for path in sorted(package.rglob("*.py")):
        found.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def is_checkout() -> bool:
    """Whether the package is imported from beside its launchers, and not from where packages are installed."""
    return (ROOT / "launchers" / "train.py").is_file()


def _version() -> str:
    try:
        return metadata.version("unity-video")
    except metadata.PackageNotFoundError:
        return ""


def _git(*command: str) -> str:
    """What git says of this checkout; nothing where there is no git, or no checkout."""
    if not (ROOT / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *command], capture_output=True, text=True, errors="surrogateescape"
        )
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""

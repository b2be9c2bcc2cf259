"""Run buf over the protos: lint, format, a build of what is exported, and breaking changes since what was there before.

buf sees images that the pinned protoc has made, so it needs neither a network nor copies of other people's protos.
What was there before is the point where this branch left ``origin/main``; on main itself the commit before the last;
with changes that are not committed, the last commit.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from generate import ROOT, load_compiler, trees

from longshore_client.codegen.export import export_protos

OURS = "protos/longshore"


def git(*arguments: str) -> str | None:
    """What git prints, stripped; None if it fails, as it does on a name that does not exist."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def baseline() -> str | None:
    """The commit whose protos the present ones must stay compatible with; None where there is no earlier one."""
    head = git("rev-parse", "HEAD")
    if head is None:
        return None
    if git("status", "--porcelain", "--", OURS):
        return head
    fork = git("merge-base", "HEAD", "origin/main")
    return fork if fork not in (None, head) else git("rev-parse", "--verify", "--quiet", "HEAD~1")


def restore(commit: str, folder: Path) -> bool:
    """Write our protos as a commit has them below a folder; whether it has any."""
    names = (git("ls-tree", "-r", "--name-only", commit, "--", OURS) or "").split()
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(git("show", f"{commit}:{name}") or "")
    return bool(names)


def make_image(source: Path, scratch: Path, name: str) -> Path:
    """Compile every file of ``longshore`` below a root to an image that holds its imports and comments."""
    image = scratch / f"{name}.binpb"
    includes = [source, *load_compiler().third_party_roots(scratch / "third-party")]
    files = sorted(path.relative_to(source).as_posix() for path in (source / "longshore").rglob("*.proto"))
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc"),
            *(f"-I{path}" for path in includes),
            *("--include_imports", "--include_source_info", f"--descriptor_set_out={image}"),
            *files,
        ],
        check=True,
    )
    return image


def main() -> int:
    """Run the checks, all of them even if one fails; the exit code is 1 if any did."""
    executable = str(Path(sys.argv[1]).absolute())
    config = ("--config", str(ROOT / "protos" / "buf.yaml"))
    # Lint and breaking look at our own files only; the images hold what they import as well.
    ours = ("--path", "longshore")
    failed = False

    def buf(title: str, *arguments: str | Path) -> None:
        nonlocal failed
        code = subprocess.run([executable, *arguments], cwd=scratch, check=False).returncode
        failed = failed or code != 0
        print(f"buf {title}: {'ok' if code == 0 else 'FAILED'}")

    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        image = make_image(ROOT / "protos", scratch, "present")
        buf("lint", "lint", image, *config, *ours)
        for tree in trees():
            where = tree.protos.relative_to(ROOT)
            buf(f"format {where}", "format", tree.protos, "--diff", "--exit-code")
            exported = scratch / "exported" / where
            export_protos([tree.protos], exported)
            buf(f"build of what is exported of {where}", "build", exported)
        against = baseline()
        if against is None or not restore(against, scratch / "earlier"):
            # A first commit, or a clone of one commit only, which then says nothing about compatibility.
            print("buf breaking: nothing earlier to compare with")
        else:
            before = make_image(scratch / "earlier" / "protos", scratch, "earlier")
            buf(f"breaking since {against[:9]}", "breaking", image, "--against", before, *config, *ours)
    return int(failed)


if __name__ == "__main__":
    os.environ.setdefault("BUF_CACHE_DIR", str(ROOT / ".tools" / "buf-cache"))
    sys.exit(main())

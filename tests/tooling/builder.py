"""A Dockerfile, done without a container builder: each instruction is read from it and run below a folder.

The base image, the system user and the isolation are all that is missing: paths begin with the folder, and ports are
free ones.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ABSOLUTE = re.compile(r"(?<![\w.:])/(?=(?:opt|app|data|src)\b)")


class Instruction(NamedTuple):
    """One instruction, on one line."""

    name: str
    arguments: str


def instructions(context: Path) -> Iterator[Instruction]:
    """Those of the Dockerfile of a folder."""
    lines = [line for line in (context / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if line.strip():
            name, _, arguments = line.partition(" ")
            yield Instruction(name, arguments.strip())


def in_context(context: Path, path: Path) -> bool:
    """Whether .dockerignore lets a builder see a path of a folder. The last line that fits decides."""
    seen = True
    for line in (context / ".dockerignore").read_text().splitlines():
        pattern = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(pattern, part.as_posix()) for part in (path, *path.parents)):
            seen = line.startswith("!")
    return seen


class Image:
    """What the instructions make."""

    def __init__(self, context: Path, root: Path, **environment: str) -> None:
        """Build in `root`, with the variables of this process and `environment`."""
        self.context = context
        self.root = root
        self.environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
        # The base image's python3 is the one that runs the tests.
        self.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{self.environment['PATH']}"
        self.workdir = root
        self.users: set[str] = set()
        self.says: dict[str, str] = {}
        """The arguments of the instructions that only describe."""
        for name, arguments in instructions(context):
            self._apply(name, arguments)

    def local(self, text: str) -> str:
        """A text with the image's paths below the folder."""
        return ABSOLUTE.sub(f"{self.root}/", text)

    def _apply(self, name: str, arguments: str) -> None:
        """One more instruction; one that is not known fails the test."""
        match name:
            case "FROM":
                self.workdir = self.root
            case "WORKDIR":
                self.workdir = Path(self.local(arguments))
                self.workdir.mkdir(parents=True, exist_ok=True)
            case "COPY":
                self._copy(*shlex.split(arguments))
            case "RUN":
                self._run(arguments)
            case "ENV":
                for pair in shlex.split(self.local(arguments)):
                    key, _, value = pair.partition("=")
                    self.environment[key] = re.sub(r"\$(\w+)", lambda found: self.environment[found[1]], value)
            case "ARG" | "USER" | "VOLUME" | "EXPOSE" | "HEALTHCHECK" | "STOPSIGNAL" | "ENTRYPOINT" | "CMD":
                self.says[name] = arguments
            case _:
                raise AssertionError(f"this test does not know {name}")

    def _copy(self, *arguments: str) -> None:
        if arguments[0] == "--from=build":
            # Stages share the folder here, and a virtual environment must not move.
            assert arguments[1] == arguments[2]
            return
        *sources, target = arguments
        for source in (self.context / source for source in sources):
            into = self.workdir / target / (source.name if target.endswith("/") and source.is_file() else "")
            for file in [source] if source.is_file() else sorted(source.rglob("*")):
                if file.is_file() and in_context(self.context, file.relative_to(self.context)):
                    to = into / (file.relative_to(source) if file != source else "")
                    to.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, to)

    def _run(self, command: str) -> None:
        user = re.search(r"useradd .*--uid (\d+) \S* ?(\w+)", command)
        if user is not None:
            self.users |= {user[1], user[2]}
            command = command.replace(user[0], "true").replace(f"--owner={user[2]}", f"--owner={getpass.getuser()}")
        done = subprocess.run(
            ["/bin/sh", "-c", self.local(command)], cwd=self.workdir, env=self.environment, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"RUN {command}\n{done.stdout}\n{done.stderr}"

    def command(self, name: str) -> list[str]:
        """An instruction in its exec form, as a command on this machine."""
        found: list[str] = json.loads(self.says[name].rpartition("CMD ")[2])
        return [self.local(part) for part in found]

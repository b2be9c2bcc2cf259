"""The Dockerfile, done without a container builder: each instruction is read from it and run below a folder.

The base image, the system user and the isolation are all that is missing: paths begin with the folder, and ports are
free ones. `make check` lints it.
"""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "orders"
ABSOLUTE = re.compile(r"(?<![\w.:])/(?=(?:opt|app|data|src)\b)")


class Instruction(NamedTuple):
    """One instruction, on one line."""

    name: str
    arguments: str


def instructions() -> Iterator[Instruction]:
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if line.strip():
            name, _, arguments = line.partition(" ")
            yield Instruction(name, arguments.strip())


def in_context(path: Path) -> bool:
    """Whether .dockerignore lets a builder see a path of the repository. The last line that fits decides."""
    seen = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(pattern, part.as_posix()) for part in (path, *path.parents)):
            seen = line.startswith("!")
    return seen


class Image:
    """What the instructions make."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.workdir = root
        self.users: set[str] = set()
        self.says: dict[str, str] = {}
        """The arguments of the instructions that only describe."""

    def local(self, text: str) -> str:
        """A text with the image's paths below the folder."""
        return ABSOLUTE.sub(f"{self.root}/", text)

    def apply(self, name: str, arguments: str) -> None:
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
        for source in map(Path, sources):
            into = self.workdir / target / (source.name if target.endswith("/") and (ROOT / source).is_file() else "")
            for file in [ROOT / source] if (ROOT / source).is_file() else sorted((ROOT / source).rglob("*")):
                if file.is_file() and in_context(file.relative_to(ROOT)):
                    to = into / (file.relative_to(ROOT / source) if file != ROOT / source else "")
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


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """All instructions applied, with the orders example where the image expects a service."""
    built = Image(tmp_path_factory.mktemp("image"))
    # The base image's python3 is the one that runs the tests.
    built.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{built.environment['PATH']}"
    for name, arguments in instructions():
        built.apply(name, arguments)
    shutil.copytree(EXAMPLE, built.workdir, dirs_exist_ok=True)
    return built


async def test_the_image_serves_and_is_healthy_and_stops(image: Image) -> None:
    announced = [part.replace(":50051", ":0").replace(":9464", ":0") for part in image.command("CMD")]
    executable, *arguments = [*image.command("ENTRYPOINT"), *announced]
    # As with a read-only root, on which there is no folder for temporary files.
    image.environment |= {"TMPDIR": "/nonexistent", "HOME": "/nonexistent"}
    before = files(image)
    found = shutil.which(executable, path=image.environment["PATH"])
    assert found == str(image.root / "opt/longshore/bin/longshore")
    server = await asyncio.create_subprocess_exec(
        found, *arguments, cwd=image.workdir, env=image.environment, stderr=asyncio.subprocess.PIPE
    )
    assert server.stderr is not None
    said = ""
    try:
        while "  serving " not in said:
            line = await server.stderr.readline()
            assert line, said
            said += line.decode()
        ports = re.search(r"  on 0\.0\.0\.0:(\d+)   data (\S+)   metrics 0\.0\.0\.0:\d+$", said, re.MULTILINE)
        assert ports is not None, said
        assert (Path(ports[2]) / "longshore.db").exists()
        assert ports[2] == image.local(image.says["VOLUME"])
        checked = await healthy(image, ports[1])
        assert checked == (0, "SERVING\n"), checked
        server.send_signal(signal.Signals[image.says["STOPSIGNAL"]])
        rest = await server.stderr.read()
        assert await server.wait() == 0, said + rest.decode()
        assert (await healthy(image, ports[1]))[0] == 1, "nobody answers any more"
        assert files(image) == before, "only the volume is written to"
    finally:
        if server.returncode is None:
            server.kill()
            await server.wait()


def files(image: Image) -> dict[Path, int]:
    """Everything outside of the volume, and when it was last written."""
    volume = Path(image.local(image.says["VOLUME"]))
    return {path: path.lstat().st_mtime_ns for path in image.root.rglob("*") if not path.is_relative_to(volume)}


async def healthy(image: Image, port: str) -> tuple[int, str]:
    """The exit code and the words of the health check, pointed at a port."""
    command = [part.replace(":50051", f":{port}") for part in image.command("HEALTHCHECK")]
    assert command[-1].endswith(f":{port}")
    executable = shutil.which(command[0], path=image.environment["PATH"])
    assert executable is not None
    check = await asyncio.create_subprocess_exec(
        executable, *command[1:], cwd=image.workdir, env=image.environment, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await check.communicate()
    return check.returncode or 0, out.decode()


def test_the_image_installs_from_what_it_copies_and_runs_outside_of_the_checkout(image: Image) -> None:
    python = str(image.root / "opt/longshore/bin/python")
    code = "import longshore, longshore_client, longshore_server as s; print(s.__file__)"

    def said(*arguments: str) -> str:
        done = subprocess.run(
            [python, *arguments], cwd=image.root, env=image.environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    where = said("-c", code)
    assert where.startswith(str(image.root / "opt"))
    assert not (image.root / "src" / "tests").exists()
    pinned = (ROOT / "constraints" / "highest.txt").read_text().splitlines()
    freeze = [sys.executable, "-m", "pip", "--python", python, "freeze", "--exclude", "longshore-grpc"]
    installed = subprocess.run(freeze, capture_output=True, text=True, check=True).stdout.splitlines()
    known = {line.partition(";")[0].strip().lower().replace("_", "-") for line in pinned}
    assert {line.lower().replace("_", "-") for line in installed} <= known


def test_the_image_is_small(image: Image) -> None:
    installed = [path for path in (image.root / "opt").rglob("*") if not path.is_symlink()]
    assert not [path for path in installed if path.name == "pip"], "nothing is installed in there"
    size = sum(path.stat().st_size for path in installed if path.is_file())
    assert size < 180 << 20, f"{size >> 20} MiB beside Python: the drivers of remote stores are most of it"


def test_the_image_has_one_volume(image: Image) -> None:
    assert [arguments for name, arguments in instructions() if name == "VOLUME"] == ["/data"]
    data = image.command("CMD")[image.command("CMD").index("--data") + 1]
    assert data == image.local("/data") == image.environment["SQLITE_TMPDIR"]


def test_the_image_runs_as_its_own_user_and_says_its_ports(image: Image) -> None:
    assert image.says["USER"] in image.users
    assert image.says["USER"] not in ("0", "root")
    listened = {part.rpartition(":")[2] for part in image.command("CMD") if part.startswith("0.0.0.0:")}
    assert set(image.says["EXPOSE"].split()) == listened
    assert image.command("HEALTHCHECK")[-1].rpartition(":")[2] in listened


def test_a_builder_sees_what_is_copied_and_nothing_else() -> None:
    copied = {
        source
        for name, arguments in instructions() if name == "COPY" and not arguments.startswith("--from")
        for source in arguments.split()[:-1]
    }  # fmt: skip
    assert all(in_context(Path(source)) for source in copied)
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    seen = {path for path in listed if in_context(Path(path))}
    assert seen == {path for path in listed if any(Path(path).is_relative_to(source) for source in copied)}
    assert not in_context(Path("server/longshore_server/__pycache__/server.cpython-311.pyc"))

"""Our Dockerfile, and that of a project which `longshore new` writes; `make check` lints both."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tooling.builder import Image, in_context, instructions
from tests.tooling.conftest import run

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "orders"
pytestmark = pytest.mark.timeout(600)  # each image is installed from an index


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Our image, with the orders example where it expects a service."""
    built = Image(ROOT, tmp_path_factory.mktemp("image"))
    shutil.copytree(EXAMPLE, built.workdir, dirs_exist_ok=True)
    return built


@pytest.fixture(scope="module")
def projects(tools: Path, constraints: Path, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image of a new project of somebody who has the wheel."""
    folder = tmp_path_factory.mktemp("project")
    run(tools / "longshore", "new", "widgets", cwd=folder)
    run(tools / "longshore", "generate", "protos", "--out", ".", cwd=folder / "widgets")
    return Image(folder / "widgets", tmp_path_factory.mktemp("image"), PIP_CONSTRAINT=str(constraints))


@pytest.fixture(params=["ours", "projects"])
def image(request: pytest.FixtureRequest) -> Image:
    found: Image = request.getfixturevalue(request.param)
    return found


async def test_the_image_serves_and_is_healthy_and_stops(image: Image) -> None:
    announced = [part.replace(":50051", ":0").replace(":9464", ":0") for part in image.command("CMD")]
    executable, *arguments = [*image.command("ENTRYPOINT"), *announced]
    # As with a read-only root, on which there is no folder for temporary files.
    image.environment |= {"TMPDIR": "/nonexistent", "HOME": "/nonexistent"}
    before = files(image)
    found = shutil.which(executable, path=image.environment["PATH"])
    assert found is not None
    assert Path(found).is_relative_to(image.root / "opt")
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


def test_our_image_installs_from_what_it_copies_and_runs_outside_of_the_checkout(ours: Image) -> None:
    python = ours.root / "opt/longshore/bin/python"
    code = "import longshore, longshore_client, longshore_server as s; print(s.__file__)"
    assert run(python, "-c", code, cwd=ours.root).startswith(str(ours.root / "opt"))
    assert not (ours.root / "src" / "tests").exists()
    pinned = (ROOT / "constraints" / "highest.txt").read_text().splitlines()
    known = {line.partition(";")[0].strip().lower().replace("_", "-") for line in pinned}
    freeze = (sys.executable, "-m", "pip", "--python", python, "freeze", "--exclude", "longshore-grpc")
    assert {line.lower().replace("_", "-") for line in run(*freeze, cwd=ours.root).splitlines()} <= known


def test_a_projects_image_takes_longshore_from_the_project(projects: Image, wheel: Path) -> None:
    """Not from the place on the developer's machine, and not from an index, where the name may be somebody else's."""
    freeze = (sys.executable, "-m", "pip", "--python", projects.root / "opt/widgets/bin/python", "freeze")
    installed = run(*freeze, cwd=projects.root).splitlines()
    (ours,) = (line for line in installed if line.startswith("longshore"))
    assert ours.partition("#")[0] == f"longshore-grpc @ file://{projects.root}/src/wheels/{wheel.name}"
    assert not {line.partition("==")[0] for line in installed} & {"pytest", "grpcio-tools"}, "a developer's"


def test_the_image_is_small(image: Image) -> None:
    installed = [path for path in (image.root / "opt").rglob("*") if not path.is_symlink()]
    assert not [path for path in installed if path.name == "pip"], "nothing is installed in there"
    size = sum(path.stat().st_size for path in installed if path.is_file())
    assert size < 180 << 20, f"{size >> 20} MiB beside Python: the drivers of remote stores are most of it"


def test_the_image_has_one_volume(image: Image) -> None:
    assert [arguments for name, arguments in instructions(image.context) if name == "VOLUME"] == ["/data"]
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
        for name, arguments in instructions(ROOT) if name == "COPY" and not arguments.startswith("--from")
        for source in arguments.split()[:-1]
    }  # fmt: skip
    assert all(in_context(ROOT, Path(source)) for source in copied)
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    seen = {path for path in listed if in_context(ROOT, Path(path))}
    assert seen == {path for path in listed if any(Path(path).is_relative_to(source) for source in copied)}
    assert not in_context(ROOT, Path("server/longshore_server/__pycache__/server.cpython-311.pyc"))

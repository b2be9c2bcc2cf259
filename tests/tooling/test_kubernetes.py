"""examples/sidecar/kubernetes.yaml: valid by the schemas of Kubernetes, and right about the image and the server."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from longshore_server.command import serve
from longshore_server.config import Config, load
from tests.conftest import Lab

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "examples" / "sidecar" / "kubernetes.yaml"
OBJECTS = {found["kind"]: found for found in yaml.safe_load_all(MANIFEST.read_text("utf-8"))}
PODS: dict[str, Any] = OBJECTS["StatefulSet"]["spec"]
POD: dict[str, Any] = PODS["template"]["spec"]
(SIDECAR,) = POD["initContainers"]
(APPLICATION,) = POD["containers"]
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


@pytest.fixture
def config() -> Config:
    """What the sidecar is told by its arguments."""
    with serve.make_context("serve", list(SIDECAR["args"])) as context:
        flags = dict(context.params)
    assert flags.pop("target") == "service.py:server"
    return load(flags, {})


def mounts(container: Any) -> dict[str, str]:
    return {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}


def instruction(name: str) -> str:
    found = re.findall(rf"^{name} (.*)$", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    return str(found[-1])


@pytest.mark.parametrize("version", ["1.29", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("kind", OBJECTS)
def test_the_manifest_is_valid(kind: str, version: str) -> None:
    kubernetes_validate.validate(OBJECTS[kind], version, strict=True)


def test_the_schema_refuses_what_it_does_not_know() -> None:
    wrong = yaml.safe_load(MANIFEST.read_text("utf-8").split("---\n")[1].replace("restartPolicy", "restartPolicie"))
    with pytest.raises(kubernetes_validate.ValidationError, match="restartPolicie"):
        kubernetes_validate.validate(wrong, "1.29", strict=True)


def test_the_server_is_a_native_sidecar_and_has_time_to_drain(config: Config) -> None:
    assert SIDECAR["restartPolicy"] == "Always"
    assert POD["terminationGracePeriodSeconds"] > 2 * config.drain, "the application ends first, out of the same time"
    assert OBJECTS["StatefulSet"]["kind"] == "StatefulSet", "no second pod before the first has let go of the volume"


def test_both_meet_at_the_socket(config: Config) -> None:
    (address,) = config.listen
    assert str(Path(address.removeprefix("unix:")).parent) == mounts(SIDECAR)["socket"] == mounts(APPLICATION)["socket"]
    assert {"name": "LONGSHORE_SERVER", "value": address} in APPLICATION["env"]
    assert [volume["name"] for volume in POD["volumes"]] == ["socket"]
    assert (config.socket_mode, config.socket_group) == ("0660", str(POD["securityContext"]["fsGroup"]))


def test_the_one_volume_is_the_images(config: Config) -> None:
    assert [claim["metadata"]["name"] for claim in PODS["volumeClaimTemplates"]] == ["data"]
    assert str(config.data) == mounts(SIDECAR)["data"] == instruction("VOLUME")


def test_metrics_are_where_they_are_said_to_be(config: Config) -> None:
    (port,) = SIDECAR["ports"]
    assert config.metrics == f"0.0.0.0:{port['containerPort']}"
    assert port["containerPort"] == OBJECTS["Service"]["spec"]["ports"][0]["port"]


def test_nothing_may_do_more_than_it_must() -> None:
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert instruction("USER").isdecimal(), "a name cannot be known not to be root's"
    for container in (SIDECAR, APPLICATION):
        context = container["securityContext"]
        assert (context["readOnlyRootFilesystem"], context["allowPrivilegeEscalation"]) == (True, False)
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"].keys() == {"requests", "limits"}


@pytest.mark.parametrize("probe", PROBES)
async def test_the_probes_tell_whether_it_serves(probe: str, config: Config, tmp_path: Path) -> None:
    interpreter, *command, address = SIDECAR[probe]["exec"]["command"]
    assert (interpreter, address) == ("python3", config.listen[0])
    here = f"unix:{tmp_path}/s"
    lab = Lab(tmp_path / "data", listen=(here,))

    async def asked() -> int:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, here, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return await process.wait()

    await lab.start()
    try:
        assert await asked() == 0
        await lab.harness.running.listener.health.set(serving=False)
        assert await asked() == 1
    finally:
        await lab.stop()

"""The versions that the project claims, in every place that names them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def claimed() -> list[Requirement]:
    """What users are asked to install: the base and every extra."""
    extras = PROJECT["project"]["optional-dependencies"].values()
    return [Requirement(line) for lines in (PROJECT["project"]["dependencies"], *extras) for line in lines]


def minimum(requirement: Requirement) -> Version:
    return next(Version(part.version) for part in requirement.specifier if part.operator == ">=")


def pinned(name: str) -> dict[str, Version]:
    """The versions of a constraints file, by canonical name."""
    lines = (ROOT / "constraints" / name).read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(item.name): exact(item) for item in requirements}


def exact(requirement: Requirement) -> Version:
    (pin,) = requirement.specifier
    assert pin.operator == "=="
    return Version(pin.version)


def generator() -> Version:
    """The exact version of grpcio-tools that writes the committed stubs."""
    group = [Requirement(line) for line in PROJECT["dependency-groups"]["generate"]]
    return exact(next(item for item in group if item.name == "grpcio-tools"))


@pytest.mark.parametrize("requirement", claimed(), ids=str)
def test_lowest_constraints_are_the_claimed_minimums(requirement: Requirement) -> None:
    if requirement.marker is not None and not requirement.marker.evaluate():
        pytest.skip(f"not for this platform: {requirement.marker}")
    assert pinned("lowest.txt")[canonicalize_name(requirement.name)] == minimum(requirement)


@pytest.mark.parametrize("requirement", claimed(), ids=str)
def test_highest_constraints_are_within_what_is_claimed(requirement: Requirement) -> None:
    assert requirement.specifier.contains(pinned("highest.txt")[canonicalize_name(requirement.name)])


def test_generator_is_exactly_the_lowest_grpcio() -> None:
    # Its stubs refuse to import on anything older, and what is newer accepts them.
    base = {item.name: minimum(item) for item in claimed()}
    assert generator() == base["grpcio"]


@pytest.mark.parametrize("stub", sorted((ROOT / "generated").rglob("*_pb2.py")), ids=lambda path: path.name)
def test_committed_messages_need_no_more_than_the_lowest_protobuf(stub: Path) -> None:
    written_by = re.search(r"^# Protobuf Python Version: (\S+)$", stub.read_text(), re.MULTILINE)
    assert written_by is not None
    assert Version(written_by[1]) == pinned("lowest.txt")["protobuf"]


@pytest.mark.parametrize("stub", sorted((ROOT / "generated").rglob("*_pb2_grpc.py")), ids=lambda path: path.name)
def test_committed_services_need_no_more_than_the_lowest_grpcio(stub: Path) -> None:
    written_by = re.search(r"^GRPC_GENERATED_VERSION = '(\S+)'$", stub.read_text(), re.MULTILINE)
    assert written_by is not None
    assert Version(written_by[1]) == pinned("lowest.txt")["grpcio"]

"""The bytes client that drives the ratios: `loadgen.cc` where it can be built, `rawclient.py` where not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.processes import BUILD, ROOT, BenchError, Process

SOURCE = Path(__file__).with_suffix(".cc")


class Loadgen:
    """Runs the client: one process a measurement, so that none inherits the state of another."""

    def __init__(self, command: list[str], name: str, folder: Path) -> None:
        self._command = command
        self._folder = folder
        self.name = name
        """What it is, for the report."""

    def file(self, name: str, content: bytes) -> str:
        """Keep a request where the client can read it."""
        path = self._folder / name
        path.write_bytes(content)
        return str(path)

    def run(self, address: str, mode: str, **options: object) -> dict[str, Any]:
        """One measurement. Raises `BenchError` when it failed, or when an answer was not what it should be."""
        process = subprocess.run(
            self._arguments(address, mode, options), cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
        )
        if process.returncode != 0:
            raise BenchError(f"{self.name}: {mode} {options} ended with code {process.returncode}")
        result: dict[str, Any] = json.loads(process.stdout)
        if result["failed"]:
            raise BenchError(f"{self.name}: {mode} {options}: {result['failed']} calls failed")
        return result

    @contextmanager
    def hold(self, address: str, **options: object) -> Iterator[None]:
        """Keep streams open for the length of the block."""
        arguments = self._arguments(address, "hold", options)
        process = Process(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            process.line()
            yield
        finally:
            process.end()

    def _arguments(self, address: str, mode: str, options: dict[str, object]) -> list[str]:
        return [*self._command, address, mode, *(f"{name}={value}" for name, value in options.items())]


def make(folder: Path) -> Loadgen:
    """The C-core client, built if need be; without g++ or the headers, and with a notice, the Python one."""
    missing = _missing()
    if missing:
        print(f"NOTICE: no C-core client, because {missing}. A Python client stands in for it; it costs more than")
        print("the servers do, so the ratios below flatter whatever is slow. On Debian: apt install libgrpc++-dev g++")
        return Loadgen([sys.executable, "-m", "benchmarks.rawclient"], "Python bytes client", folder)
    return Loadgen([str(BUILD / "loadgen")], f"C-core {_version()} client", folder)


def _missing() -> str:
    binary = BUILD / "loadgen"
    if binary.exists() and binary.stat().st_mtime > SOURCE.stat().st_mtime:
        return ""
    for tool in ("g++", "pkg-config"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "grpc++"], capture_output=True, text=True, check=False)
    if flags.returncode != 0:
        return "the headers of gRPC's C++ library are not installed"
    BUILD.mkdir(exist_ok=True)
    command = ["g++", "-std=c++17", "-O2", "-o", str(binary), str(SOURCE), *flags.stdout.split()]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if built.returncode == 0 else f"g++ could not build it:\n{built.stderr[-2000:]}"


def _version() -> str:
    found = subprocess.run(["pkg-config", "--modversion", "grpc++"], capture_output=True, text=True, check=False)
    return found.stdout.strip()

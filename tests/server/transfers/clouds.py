"""What speaks as Azure and as Google Cloud Storage do, on loopback, for stores that are remote.

Azurite is Azure's own emulator. Of Google's XML API, which is S3's with other names, no emulator knows enough: here it
is the S3 of the tests behind a door that translates the names.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import logging
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from email.utils import formatdate
from pathlib import Path
from threading import Thread
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

ROOT = Path(__file__).resolve().parents[3]
TOOLS = ROOT / ".tools" / "clouds"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's own, which its manual prints."""

SIGNED = "AWS4-HMAC-SHA256 Credential=key/20260101/eu-central-1/s3/aws4_request, SignedHeaders=host, Signature=0"
"""What the S3 of the tests, which checks no signature, takes for one."""

Start = Callable[[str, list[tuple[str, str]]], Any]


def azurite() -> list[str]:
    """What runs Azurite, installed once. Needs node and npm."""
    source, modules = Path(__file__).with_name("azurite"), TOOLS / "node_modules"
    lock = TOOLS / "package-lock.json"
    # npm writes the file of that name among the modules when all of them are there.
    done = (modules / ".package-lock.json").exists()
    if not done or lock.read_bytes() != (source / lock.name).read_bytes():
        shutil.copytree(source, TOOLS, dirs_exist_ok=True)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
        subprocess.run(command, cwd=TOOLS, check=True, capture_output=True)
    return ["node", str(modules / "azurite" / "dist" / "src" / "blob" / "main.js")]


@contextlib.contextmanager
def local_azure() -> Iterator[Mapping[str, str]]:
    """An Azure for the block, with an empty container `bucket`; the environment by which it is found."""
    options = ["--inMemoryPersistence", "--silent", "--disableTelemetry", "--skipApiVersionCheck", "--blobPort", "0"]
    process = subprocess.Popen([*azurite(), *options], cwd=TOOLS, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = next(line for line in process.stdout if "successfully listens on" in line)
        endpoint = said.split()[-1]
        _make_container(endpoint)
        yield {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": endpoint}
    finally:
        process.kill()
        process.communicate()


def _make_container(endpoint: str) -> None:
    """Stores find theirs made: this is what somebody does before. Signed as Azure wants it."""
    date = formatdate(usegmt=True)
    path = f"/{ACCOUNT}/bucket"
    headers = f"x-ms-date:{date}\nx-ms-version:2021-12-02"
    text = "PUT" + "\n" * 12 + f"{headers}\n/{ACCOUNT}{path}\nrestype:container"
    signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), text.encode(), hashlib.sha256)).decode()
    request = urllib.request.Request(
        f"{endpoint}{path}?restype=container", method="PUT",
        headers={
            "x-ms-date": date, "x-ms-version": "2021-12-02", "Authorization": f"SharedKey {ACCOUNT}:{signature}",
            "Content-Length": "0",
        },
    )  # fmt: skip
    urllib.request.urlopen(request).close()


@contextlib.contextmanager
def local_google(folder: Path) -> Iterator[Mapping[str, str]]:
    """A Google Cloud Storage for the block, with the buckets of `LocalS3`; the environment by which it is found.

    Args:
        folder: where its credentials are written.
    """
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, _Door(DomainDispatcherApplication(create_backend_app)), threaded=True)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        endpoint = f"http://127.0.0.1:{server.port}"
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        account = {
            "gcs_base_url": endpoint, "client_email": "longshore@example.com",
            "private_key": pem.decode(), "private_key_id": "1",
        }  # fmt: skip
        path = folder / "account.json"
        path.write_text(json.dumps(account), "utf-8")
        # Of who asks nothing but signed URLs are asked for: tokens come from elsewhere.
        yield {
            "GOOGLE_SERVICE_ACCOUNT": str(path), "GOOGLE_SKIP_SIGNATURE": "true", "GOOGLE_ALLOW_HTTP": "true",
        }  # fmt: skip
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Door:
    """Requests of Google's XML API as S3 knows them, and its answers as Google gives them."""

    def __init__(self, inside: Callable[..., Iterable[bytes]]) -> None:
        self._inside = inside

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        environ["HTTP_AUTHORIZATION"] = SIGNED
        for name in [name for name in environ if name.startswith("HTTP_X_GOOG_")]:
            value = environ.pop(name)
            if name == "HTTP_X_GOOG_IF_GENERATION_MATCH":
                assert value == "0"  # no object has the key
                environ["HTTP_IF_NONE_MATCH"] = "*"
            else:
                environ[name.replace("_GOOG_", "_AMZ_")] = value

        def begin(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            headers = [(name.lower().replace("x-amz-", "x-goog-"), value) for name, value in headers]
            return start(status, [*headers, ("x-goog-generation", "1")], *rest)

        return self._inside(environ, begin)

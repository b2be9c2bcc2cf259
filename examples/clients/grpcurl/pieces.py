"""The messages of an upload as JSON for grpcurl: python3 pieces.py UPLOAD FILE OFFSET."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from pathlib import Path

CHUNK = 64 << 10


def _entry(crc: int) -> int:
    for _ in range(8):
        crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


TABLE = [_entry(byte) for byte in range(256)]


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), byte by byte."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def main(upload: str, file: str, offset: str) -> None:
    """A header, what there is from an offset on in chunks, and a commit."""
    data = Path(file).read_bytes()
    print(json.dumps({"header": {"upload": upload, "totalSize": len(data)}}))
    for at in range(int(offset), len(data), CHUNK):
        piece = data[at : at + CHUNK]
        chunk = {"offset": at, "data": base64.b64encode(piece).decode(), "crc32c": crc32c(piece)}
        print(json.dumps({"chunk": chunk}))
    sha256 = base64.b64encode(hashlib.sha256(data).digest()).decode()
    print(json.dumps({"commit": {"totalSize": len(data), "sha256": sha256}}))


if __name__ == "__main__":
    main(*sys.argv[1:])

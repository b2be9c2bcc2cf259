"""`grpcurl -plaintext -d JSON ADDRESS METHOD`, for machines without it: knows nothing but what reflection tells."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def main(plaintext: str, d: str, data: str, address: str, path: str) -> None:
    """Make the call and print its answers, each as JSON. A call that takes several messages gets them one after the
    other, as grpcurl does."""
    assert (plaintext, d) == ("-plaintext", "-d")
    with grpc.insecure_channel(address) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        service, _, name = path.partition("/")
        method = pool.FindServiceByName(service).methods_by_name[name]
        # A call with one message is on the wire a stream of one.
        call = channel.stream_stream(
            f"/{path}",
            request_serializer=GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        kind = GetMessageClass(method.input_type)
        requests = (json_format.ParseDict(value, kind(), descriptor_pool=pool) for value in documents(data))
        for message in call(requests):
            print(json_format.MessageToJson(message, descriptor_pool=pool))


def documents(text: str) -> Iterator[Any]:
    """The JSON values of a text, one after the other."""
    decoder = json.JSONDecoder()
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        text = text[end:]
        yield value


if __name__ == "__main__":
    main(*sys.argv[1:])

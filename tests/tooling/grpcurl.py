"""`grpcurl -plaintext -d JSON ADDRESS METHOD`, for machines without it: knows nothing but what reflection tells."""

from __future__ import annotations

import sys

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def main(plaintext: str, d: str, data: str, address: str, path: str) -> None:
    """Make the call and print its answers, each as JSON."""
    assert (plaintext, d) == ("-plaintext", "-d")
    with grpc.insecure_channel(address) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        service, _, name = path.partition("/")
        method = pool.FindServiceByName(service).methods_by_name[name]
        # A call with one answer is on the wire a stream of one.
        call = channel.unary_stream(
            f"/{path}",
            request_serializer=GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        request = json_format.Parse(data, GetMessageClass(method.input_type)(), descriptor_pool=pool)
        for message in call(request):
            print(json_format.MessageToJson(message, descriptor_pool=pool))


if __name__ == "__main__":
    main(*sys.argv[1:])

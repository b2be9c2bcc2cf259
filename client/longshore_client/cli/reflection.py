"""Message types learnt from the server itself, so that the command line needs no generated code."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, empty_pb2, json_format, message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2

from longshore.v1 import channels_pb2
from longshore.v1 import operations_service_pb2 as pb
from longshore_client.channel import error_of
from longshore_client.cli.app import did_you_mean
from longshore_client.codec import Codec
from longshore_client.errors import CallError, Code, NotFound, Unimplemented
from longshore_client.method import OperationMethod, UploadMethod
from longshore_client.operation import OperationHandle

if TYPE_CHECKING:
    from collections.abc import Callable

    from longshore_client.channel import Channel

MethodT = TypeVar("MethodT")

# Both versions of the protocol have the same messages on the wire.
_METHODS = (
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)


class Types:
    """The server's message types, in a pool of their own: a user's types must not meet ours of the same file name."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._pool = DescriptorPool()
        self._known: set[str] = set()
        self._learnt: set[str] = set()
        self._method: str | None = None
        self.codec: Codec[Any, Any, Any] = _DynamicCodec(self)
        """Decodes the payloads of operations of every type that was learnt."""
        # Types that errors and channels use on any server, whether or not its reflection shows them.
        for module in (error_details_pb2, channels_pb2, empty_pb2):
            self._add_local(module.DESCRIPTOR)

    async def load(self, *names: str) -> None:
        """Fetch the files that define these messages, and all that they import.

        Raises:
            NotFound: The server does not describe a message.
            Unimplemented: It offers no reflection.
        """
        for name in names:
            if self.find(name) is None:
                await self._add_files(
                    await self._ask(reflection_pb2.ServerReflectionRequest(file_containing_symbol=name))
                )

    def find(self, name: str) -> type[Message] | None:
        """Return the class of a message that is loaded."""
        try:
            return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(name))
        except KeyError:
            return None

    def get(self, name: str) -> type[Message]:
        """Return the class of a message that `load` was called for."""
        found = self.find(name)
        if found is None:
            raise NotFound(f"the server does not describe {name}", reason="UNKNOWN_MESSAGE", code=Code.NOT_FOUND)
        return found

    def unpack(self, value: AnyMessage) -> Message:
        """Unpack what is known; anything else stays packed."""
        kind = self.find(value.type_url.rpartition("/")[2])
        if kind is None:
            return value
        try:
            return kind.FromString(value.value)
        except DecodeError:
            return value

    def to_dict(self, message: Message) -> Any:
        """Turn a message into JSON values; field names as in the contract."""
        if isinstance(message, AnyMessage):
            inner = self.unpack(message)
            if inner is message:
                return {"@type": message.type_url, "value": base64.b64encode(message.value).decode()}
            value = self.to_dict(inner)
            # Some of protobuf's own are no objects in JSON, such as a StringValue.
            return {"@type": message.type_url, **(value if isinstance(value, dict) else {"value": value})}
        try:
            return json_format.MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=self._pool)
        except (DecodeError, RecursionError, TypeError, ValueError):
            # A field holds a packed message that nobody described, or the message what JSON has no form for, such as a
            # time in the year 99999 or a thousand packed messages in each other.
            return {"@type": message.DESCRIPTOR.full_name, "text": str(message)}

    def parse(self, data: Any, kind: type[Message]) -> Message:
        """Make a message of JSON values.

        Raises:
            ValueError: They do not fit the message; the text says where.
        """
        # Those of protobuf itself have forms of their own, such as "5s".
        if not isinstance(data, dict) and kind.DESCRIPTOR.file.package != "google.protobuf":
            raise ValueError(f"it must be an object, as in {{}}, and not {json.dumps(data)}")
        message = kind()
        try:
            json_format.ParseDict(data, message, descriptor_pool=self._pool)
        except (json_format.ParseError, TypeError) as error:
            raise ValueError(str(error)) from error
        return message

    async def operation_type(self, name: str) -> pb.OperationType:
        """Find an operation type by its full name, or by the end of it where that is enough.

        Raises:
            NotFound: There is none of that name, or several.
        """
        catalog = await self._channel.invoke(self._channel.calls.list_types, pb.ListTypesRequest())
        wanted = name.replace(".", "/")
        found = [item for item in catalog.types if item.type == name] or [
            item for item in catalog.types if f"/{item.type.replace('.', '/')}".endswith(f"/{wanted}")
        ]
        if len(found) == 1:
            return found[0]
        # As much of each name as the given one has parts: `Proces` is close to `Process`, not to all of its name.
        parts = wanted.count("/") + 1
        names = [item.type[-len("/".join(re.split("[./]", item.type)[-parts:])) :] for item in catalog.types]
        if found:
            text = f"{name!r} may be {' or '.join(item.type for item in found)}: write more of it"
        else:
            text = f"the server has no operation type {name!r}{did_you_mean(name, names) or ': see `longshore types`'}"
        raise NotFound(text, reason="TYPE_NOT_FOUND", code=Code.NOT_FOUND, domain="longshore")

    async def payloads(self, info: pb.OperationType) -> dict[str, str]:
        """Load the payloads of a type's signals, and return the full names of their types by the signals' names."""
        package = info.type.rpartition("/")[0].rpartition(".")[0]
        found = {}
        for signal in info.contract.signals:
            # As the server resolves what a contract names: a bare name means the contract's own package.
            name, local = signal.payload_type, f"{package}.{signal.payload_type}"
            for candidate in (name, local) if "." in name else (local, name):
                try:
                    await self.load(candidate)
                except NotFound:
                    continue
                found[signal.name] = candidate
                break
        return found

    async def method(self, info: pb.OperationType) -> OperationMethod[Any, Any, Any, Any]:
        """Return what starts and follows operations of a type."""
        return await self._make(OperationMethod, info)

    async def upload_method(self, info: pb.OperationType) -> UploadMethod[Any, Any, Any, Any]:
        """Return what starts and follows operations of a type that takes bytes."""
        return await self._make(UploadMethod, info)

    async def _make(self, kind: Callable[..., MethodT], info: pb.OperationType) -> MethodT:
        await self._load_all(info)
        types = {"progress_type": Message, "output_type": Message, "result_type": Message}
        return kind(self._channel, info.type, input_type=self.get(info.input_type), codec=self.codec, **types)

    async def _load_all(self, info: pb.OperationType) -> None:
        await self.load(*_message_names(info))
        await self.payloads(info)

    async def learn(self, operation_type: str) -> None:
        """Load what is needed to read the payloads of a type's operations.

        The type may have gone from the server. Its payloads are then shown packed; all else works.
        """
        if operation_type in self._learnt:
            return
        self._learnt.add(operation_type)
        try:
            request = pb.GetTypeRequest(type=operation_type)
            info = await self._channel.invoke(self._channel.calls.get_type, request)
            await self._load_all(info)
        except (NotFound, Unimplemented):
            pass

    async def attach(self, name: str, operation_type: str) -> OperationHandle[Any, Any, Any, Any]:
        """Return a handle on an operation that exists."""
        await self.learn(operation_type)
        return OperationHandle(self._channel, self.codec, name)

    async def _ask(self, request: reflection_pb2.ServerReflectionRequest) -> list[bytes]:
        for method in [self._method] if self._method else _METHODS:
            try:
                response = await self._answer(method, request)
            except grpc.aio.AioRpcError as error:
                failure = error_of(error)
                if isinstance(failure, Unimplemented):
                    continue
                raise failure from None
            self._method = method
            if not isinstance(response, reflection_pb2.ServerReflectionResponse):
                continue
            if response.HasField("error_response"):
                what = request.file_containing_symbol or request.file_by_filename
                raise NotFound(f"the server does not describe {what}", reason="UNKNOWN_MESSAGE", code=Code.NOT_FOUND)
            return list(response.file_descriptor_response.file_descriptor_proto)
        raise Unimplemented(
            f"{self._channel.target} offers no server reflection, which this command needs: serve it without "
            "--reflection off",
            reason="NO_REFLECTION",
            code=Code.UNIMPLEMENTED,
            domain="longshore",
        )

    async def _answer(self, method: str, request: reflection_pb2.ServerReflectionRequest) -> object:
        # One question is the same on the wire as one of many. Asked as one of many, it fails with an error of grpc.aio
        # where it is refused before it is sent (grpc#36066), and that does not say that the server has no reflection.
        call = self._channel.calls.channel.unary_stream(
            method,
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )(request, timeout=self._channel.call_timeout, metadata=self._channel.metadata)
        return await call.read()

    async def _add_files(self, serialized: list[bytes]) -> None:
        files = [descriptor_pb2.FileDescriptorProto.FromString(item) for item in serialized]
        by_name = {file.name: file for file in files}
        for file in files:
            await self._add_file(file, by_name)

    async def _add_file(
        self, file: descriptor_pb2.FileDescriptorProto, at_hand: dict[str, descriptor_pb2.FileDescriptorProto]
    ) -> None:
        if file.name in self._known:
            return
        self._known.add(file.name)
        for name in file.dependency:
            if name in self._known:
                continue
            if name not in at_hand:
                try:
                    request = reflection_pb2.ServerReflectionRequest(file_by_filename=name)
                    for item in await self._ask(request):
                        fetched = descriptor_pb2.FileDescriptorProto.FromString(item)
                        at_hand[fetched.name] = fetched
                except CallError as error:
                    if not isinstance(error, NotFound):
                        raise
            if name in at_hand:
                await self._add_file(at_hand[name], at_hand)
        self._pool.Add(file)

    def _add_local(self, file: Any) -> None:
        if file.name in self._known:
            return
        self._known.add(file.name)
        for dependency in file.dependencies:
            self._add_local(dependency)
        self._pool.AddSerializedFile(file.serialized_pb)


def _message_names(info: pb.OperationType) -> list[str]:
    names = (info.input_type, info.progress_type, info.output_type, info.result_type)
    return [name for name in names if name]


class _DynamicCodec(Codec[Any, Any, Any]):
    """Decodes whatever the server described, by the name that each payload carries."""

    def __init__(self, types: Types) -> None:
        super().__init__(Message, Message, Message)
        self._types = types

    def signal_type(self, name: str) -> type[Any]:  # noqa: ARG002 - every one is decoded by what it says of itself
        return Message

    def _payload(self, value: AnyMessage, kind: type[Any], channel: str) -> Any:  # noqa: ARG002 - as in the base
        return self._types.unpack(value)

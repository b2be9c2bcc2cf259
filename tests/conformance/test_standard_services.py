"""What tools expect of any server: health, reflection, Unix sockets; and what a second server must not do."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from lab.v1 import lab_pb2

from longshore_server import Config, ConfigError, StoreError
from longshore_server.rpc.addresses import ListenError
from tests.conftest import Lab, refused

SERVICES = [
    "", "lab.v1.LabService", "longshore.v1.OperationsService", "longshore.v1.OperationControlService",
    "longshore.v1.TransfersService", "google.longrunning.Operations", "google.bytestream.ByteStream",
]  # fmt: skip
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health(channel: grpc.aio.Channel, service: str = "") -> Any:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status


@pytest.mark.parametrize("service", SERVICES)
async def test_health_is_serving_and_says_so_to_who_watches_until_it_drains(lab: Lab, service: str) -> None:
    assert await health(lab.channel, service) == SERVING
    stub: Any = health_pb2_grpc.HealthStub(lab.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=service))
    assert (await watch.read()).status == SERVING
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        try:
            await asyncio.Event().wait()
        finally:
            await gate.wait()

    await lab.reached((await lab.begin()).operation.name, "started")
    stopping = asyncio.ensure_future(lab.harness.running.stop())
    assert (await watch.read()).status == NOT_SERVING
    assert await health(lab.channel, service) == NOT_SERVING
    gate.set()
    await stopping


async def test_health_of_an_unknown_service(lab: Lab) -> None:
    code, reason, _ = await refused(health(lab.channel, "no.such.Service"))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "SERVICE_NOT_FOUND")
    stub: Any = health_pb2_grpc.HealthStub(lab.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="no.such.Service"))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


async def test_health_is_not_serving_while_the_server_starts(tmp_path: Path) -> None:
    seen = []

    @contextlib.asynccontextmanager
    async def lifespan(server: Any) -> Any:
        async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s.sock") as channel:
            seen.extend([await health(channel, service) for service in SERVICES])
        yield None

    lab = Lab(tmp_path / "data", lifespan=lifespan, listen=(f"unix:{tmp_path}/s.sock",))
    await lab.start()
    assert seen == [NOT_SERVING] * len(SERVICES)
    assert await health(lab.channel) == SERVING
    await lab.stop()


def reflection(channel: grpc.aio.Channel, version: str) -> Any:
    return channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_shows_the_contract_of_the_user(lab: Lab, version: str) -> None:
    call = reflection(lab.channel, version)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="lab.v1.LabService"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="google.longrunning.Operation"),
        reflection_pb2.ServerReflectionRequest(file_by_filename="longshore/v1/annotations.proto"),
    ]
    listed, contract, operation, options = [response async for response in call(iter(requests))]
    names = {service.name for service in listed.list_services_response.service}
    assert {*SERVICES[1:], "grpc.health.v1.Health", f"grpc.reflection.{version}.ServerReflection"} <= names
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(data)
        for data in contract.file_descriptor_response.file_descriptor_proto
    ]
    (mine,) = [file for file in files if file.name == "lab/v1/lab.proto"]
    assert "Play" in [method.name for method in mine.service[0].method]
    assert operation.file_descriptor_response.file_descriptor_proto
    assert options.file_descriptor_response.file_descriptor_proto


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_finds_methods_and_itself_and_names_fields_as_json_does(lab: Lab, version: str) -> None:
    call = reflection(lab.channel, version)
    symbols = [
        "lab.v1.LabService.Play", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection",
        "lab.v1.LabService.Nothing", "lab.v1.PlayRequest.Nothing", "Nothing",
    ]  # fmt: skip
    asked = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol) for symbol in symbols]
    *found, no_method, no_field, nothing = [response async for response in call(iter(asked))]
    for missing in (no_method, no_field, nothing):
        assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    files = [
        {file.name: file for file in map(descriptor_pb2.FileDescriptorProto.FromString, each)}
        for each in (response.file_descriptor_response.file_descriptor_proto for response in found)
    ]
    (request,) = [kind for kind in files[0]["lab/v1/lab.proto"].message_type if kind.name == "PlayRequest"]
    assert [field.json_name for field in request.field] == ["key", "script", "count", "requestId", "payload"]
    for own, file in zip(("v1", "v1alpha"), files[1:], strict=True):
        (only,) = file.values()
        assert only.package == f"grpc.reflection.{own}"
        assert only.service[0].method[0].input_type == f".grpc.reflection.{own}.ServerReflectionRequest"


async def test_reflection_can_be_left_out(make_lab: Any) -> None:
    lab = await make_lab(reflection="off")
    call: Any = lab.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call().read()  # one that still sends may take the refusal for a broken call
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_unix_socket_serves_and_outlives_a_crash(make_lab: Any, tmp_path: Path) -> None:
    socket = tmp_path / "longshore.sock"
    lab = await make_lab(listen=(f"unix:{socket}",))
    name = (await lab.run()).name
    assert socket.is_socket()
    await lab.restart()
    assert (await lab.get(name)).name == name
    await lab.harness.stop()
    assert not socket.exists()


async def test_two_addresses_are_one_server(make_lab: Any, tmp_path: Path) -> None:
    lab = await make_lab(listen=("127.0.0.1:0", f"unix:{tmp_path}/s.sock"))
    assert len(lab.harness.running.addresses) == 2
    name = (await lab.run()).name
    from longshore.v1 import operations_service_pb2 as pb
    from longshore.v1 import operations_service_pb2_grpc

    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s.sock") as channel:
        stub = operations_service_pb2_grpc.OperationsServiceStub(channel)
        assert (await stub.Get(pb.GetRequest(name=name))).name == name


async def test_a_socket_in_a_directory_that_is_not_there(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "data", listen=(f"unix:{tmp_path}/no/s.sock",))
    with pytest.raises(ListenError, match=r"the directory .*/no does not exist"):
        await lab.start()


async def test_a_second_server_on_the_same_data_is_refused_and_the_first_goes_on(lab: Lab) -> None:
    import os

    second = Lab(lab.data)
    with pytest.raises(StoreError, match=rf"in use by another server \(pid {os.getpid()}\)"):
        await second.start()
    await lab.run()
    await lab.harness.stop()
    await second.start()
    await second.stop()
    await lab.harness.start()


async def test_a_second_server_on_the_same_port_is_refused_and_the_first_goes_on(lab: Lab, tmp_path: Path) -> None:
    second = Lab(tmp_path / "other", listen=(lab.harness.address,))
    with pytest.raises(ListenError, match="it is in use"):
        await second.start()
    for _ in range(20):
        await lab.connect()
        await lab.run()
    # And it let go of everything that it had taken: its data can be served elsewhere.
    third = Lab(tmp_path / "other")
    await third.start()
    await third.stop()


async def test_a_database_of_a_newer_version_is_refused_and_left_as_it_is(lab: Lab) -> None:
    await lab.run()
    await lab.harness.stop()
    path = lab.data / "longshore.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        (known,) = database.execute("PRAGMA user_version").fetchone()
        database.execute(f"PRAGMA user_version = {known + 1}")
    before = lab.tables()
    with pytest.raises(StoreError, match=rf"newer Longshore \(schema {known + 1}, this one knows {known}\)"):
        await lab.harness.start()
    assert lab.tables() == before
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {known}")
    await lab.harness.start()


async def test_another_program_s_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "longshore.db")) as database:
        database.execute("CREATE TABLE theirs (x)")
        database.commit()
    with pytest.raises(StoreError, match="another program's database"):
        await lab.start()
    assert lab.tables() == {"theirs": []}


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "longshore.db").write_bytes(b"This is a text, and a long one at that. " * 100)
    with pytest.raises(StoreError, match="Is it a Longshore database"):
        await Lab(tmp_path).start()


async def test_metrics_count_what_happens(make_lab: Any) -> None:
    lab = await make_lab(metrics="127.0.0.1:0", concurrency=1)
    gate = asyncio.Event()

    @lab.plays
    async def handler(request, op):
        await gate.wait()
        return lab_pb2.PlayResult()

    names = [(await lab.begin()).operation.name for _ in range(3)]

    async def read() -> dict[str, float]:
        url = f"http://{lab.harness.running.metrics.address}/metrics"
        text = (await asyncio.to_thread(lambda: urllib.request.urlopen(url).read())).decode()
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def at(name: str, state: str = "") -> str:
        return f'{name}{{{f"state={chr(34)}{state}{chr(34)}," if state else ""}type="{Lab.TYPE}"}}'

    found = await read()
    assert found[at("longshore_operations_live", "RUNNING")] == 1
    assert found[at("longshore_operations_live", "PENDING")] == 2
    assert found[at("longshore_attempts_running")] == 1
    assert found[at("longshore_operations_waiting")] == 2
    gate.set()
    for name in names:
        await lab.end(name)
    while lab.engine.watches.count:  # a wait ends at the server after its answer
        await lab.catch_up()
    found = await read()
    assert found[at("longshore_operations_live", "RUNNING")] == 0
    assert found[at("longshore_operations_ended_total", "COMPLETED")] == 3
    assert found["longshore_store_commit_changes_sum"] >= 6
    assert found["longshore_watches_open"] == 0


async def test_metrics_on_a_port_that_is_taken_are_refused_in_a_sentence(make_lab: Any, tmp_path: Path) -> None:
    lab = await make_lab(metrics="127.0.0.1:0")
    second = Lab(tmp_path / "other", metrics=lab.harness.running.metrics.address)
    with pytest.raises(ListenError, match="metrics"):
        await second.start()


@pytest.mark.parametrize("address", ["9464", "localhost", "localhost:x", "localhost:65536", "localhost:\u0663"])
async def test_an_address_without_a_port_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="metrics"):
        Config(metrics=address)
    with pytest.raises(ConfigError, match="listen"):
        Config(listen=(address,))

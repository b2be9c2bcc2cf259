"""What a service's descriptor says and where: resolves what options name, and gives every problem its place."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from longshore.v1 import annotations_pb2
from longshore_server.contract.durations import micros


class ContractError(Exception):
    """A contract that this server cannot enforce; the message names file, method and option, and says what to do."""


class Source:
    """The contract of one service object. Raises `ContractError` for an object that has none."""

    def __init__(self, service: object) -> None:
        descriptor = getattr(service, "DESCRIPTOR", None)
        if not isinstance(descriptor, ServiceDescriptor):
            what = service.__name__ if isinstance(service, type) else type(service).__name__
            raise ContractError(
                f"{what} has no contract: derive it from the base class that `longshore generate` writes, "
                "for example OrdersService"
            )
        if isinstance(service, type):
            raise ContractError(f"{service.__name__} is a class: pass an instance, {service.__name__}()")
        self.service = service
        self.descriptor = descriptor
        self.names: dict[str, str] = dict(getattr(service, "OPERATIONS", {}))
        """What each method is called in Python."""
        self.lines: dict[str, int] = dict(getattr(service, "LINES", {}))
        """Where in the file each method stands; not of every service known."""

    @property
    def file(self) -> str:
        """The proto file."""
        return str(self.descriptor.file.name)

    def error(self, option: str, problem: str) -> ContractError:
        """Of the service as a whole; `option` may be empty."""
        return _error(f"{self.file}: {self.descriptor.name}", option, problem)


class Declaration:
    """One method and the option `longshore.v1.operation` that it carries."""

    def __init__(self, source: Source, method: MethodDescriptor) -> None:
        self.source = source
        self.method = method
        self.contract: annotations_pb2.OperationContract = method.GetOptions().Extensions[annotations_pb2.operation]

    @property
    def path(self) -> str:
        """`/package.Service/Method`."""
        return f"/{self.source.descriptor.full_name}/{self.method.name}"

    @property
    def streams(self) -> bool:
        """Whether it answers with a stream."""
        return bool(self.method.server_streaming)

    def error(self, option: str, problem: str) -> ContractError:
        """Of this method; `option` may be empty."""
        line = self.source.lines.get(self.method.name, 0)
        place = f"{self.source.file}:{line}" if line else self.source.file
        return _error(f"{place}: {self.source.descriptor.name}.{self.method.name}", option, problem)

    def message(self, option: str, name: str) -> type[Message]:
        """The class of the message that `name` means, resolved as operation_info says. Raises `ContractError`."""
        if not name:
            raise self.error(option, "it must name a message; google.protobuf.Empty stands for none")
        file = self.source.descriptor.file
        local = f"{file.package}.{name}"
        for candidate in (name, local) if "." in name else (local, name):
            try:
                found: Descriptor = file.pool.FindMessageTypeByName(candidate)
            except KeyError:
                continue
            return message_factory.GetMessageClass(found)
        raise self.error(
            option,
            f"no message is called {name!r} in {file.package} or any imported file"
            f"{hint(name, file.message_types_by_name)}",
        )

    def duration(self, option: str, *, zero: bool = False) -> int | None:
        """Microseconds; None: the contract does not say. Raises `ContractError`, for zero too unless `zero`."""
        *outer, field = option.split(".")
        holder: Message = self.contract
        for name in outer:
            holder = getattr(holder, name)
        if not holder.HasField(field):
            return None
        try:
            return micros(getattr(holder, field), zero=zero)
        except ValueError as error:
            raise self.error(option, str(error)) from None


def hint(name: str, known: Iterable[str]) -> str:
    """The sentence that ends a problem with an unknown name: which one may be meant; empty: none is close."""
    close = get_close_matches(name, list(known), n=1)
    return f". Did you mean {close[0]!r}?" if close else ""


def hint_or_all(name: str, known: Iterable[str]) -> str:
    """As `hint`, for one of few: where none is close, which there are, ten at most."""
    names = sorted(known)
    first = ", ".join(map(repr, names[:10]))
    return hint(name[:200], names) or (f". There is {first}{', ...' if len(names) > 10 else ''}." if names else ".")


def _error(place: str, option: str, problem: str) -> ContractError:
    return ContractError(f"{place}: {f'option {option}: ' if option else ''}{problem}")

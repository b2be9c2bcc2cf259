"""All of a store, read from its file after the server has stopped."""

from __future__ import annotations

import bisect
from collections import defaultdict
from typing import Any

from torture.v1.torture_pb2 import WorkRequest, WorkResult

from longshore.v1 import operation_pb2
from tests.faults.process import Effect, ServerProcess

BY_UID = ("inputs", "events", "journal", "signals", "requests", "names", "labels")
"""The tables whose rows belong to an operation."""


def uid_text(uid: bytes) -> str:
    """As the wire shows it."""
    text = uid.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Stored:
    """The rows by their operation's uid, and what the handlers wrote into the ledger."""

    def __init__(self, server: ServerProcess) -> None:
        self.bodies: dict[str, list[bytes]] = defaultdict(list)
        self.numbers: dict[str, list[int]] = defaultdict(list)
        self.journal: dict[str, list[Any]] = defaultdict(list)
        self.signals: dict[str, list[Any]] = defaultdict(list)
        with server.database() as database:
            self.health = [row[0] for row in database.execute("PRAGMA integrity_check")]
            self.orphans = database.execute("PRAGMA foreign_key_check").fetchall()
            self.operations = {uid_text(r["uid"]): r for r in database.execute("SELECT * FROM operations")}
            self.children: dict[str, list[str]] = defaultdict(list)
            for uid, row in self.operations.items():
                self.children[row["parent"]].append(uid)
            for row in database.execute("SELECT uid, sequence, body FROM events ORDER BY uid, sequence"):
                self.bodies[uid_text(row["uid"])].append(row["body"])
                self.numbers[uid_text(row["uid"])].append(row["sequence"])
            for row in database.execute("SELECT * FROM journal ORDER BY uid, kind, name, occurrence"):
                self.journal[uid_text(row["uid"])].append(row)
            for row in database.execute("SELECT * FROM signals ORDER BY uid, number"):
                self.signals[uid_text(row["uid"])].append(row)
            self.inputs = {
                uid_text(r["uid"]): WorkRequest.FromString(r["body"]) for r in database.execute("SELECT * FROM inputs")
            }
            self.requests = {
                (r["type"], r["request_id"]): uid_text(r["uid"]) for r in database.execute("SELECT * FROM requests")
            }
            self.names = {r["id"]: uid_text(r["uid"]) for r in database.execute("SELECT * FROM names")}
            self.traces = {
                uid_text(row["uid"])
                for table in BY_UID
                for row in database.execute(f"SELECT DISTINCT uid FROM {table}")
            }
            """The uids of all rows that belong to operations."""
            self.jobs = {uid_text(r["uid"]): r for r in database.execute("SELECT * FROM jobs")}
            payloads = database.execute("SELECT uid, body FROM job_bodies WHERE part = 1")
            self.payloads = {uid_text(uid): WorkRequest.FromString(body) for uid, body in payloads}
            self.attachments = database.execute("SELECT * FROM attachments").fetchall()
            # A journal is an operation's or a job's.
            self.traces -= set(self.jobs)
            self.boots = [row[0] for row in database.execute("SELECT started FROM boots ORDER BY epoch")]
            self.stopped: int = database.execute("SELECT max(stopped) FROM boots").fetchone()[0]
            """When the last server stopped."""
        self.events = {
            uid: [operation_pb2.OperationEvent.FromString(body) for body in bodies]
            for uid, bodies in self.bodies.items()
        }
        self.effects: dict[str, list[Effect]] = defaultdict(list)
        self.notes: dict[str, list[Effect]] = defaultdict(list)
        for line in server.ledger():
            (self.notes if line.key == "-" else self.effects)[line.uid].append(line)

    def restarted(self, since: int | None, until: int | None) -> bool:
        """Whether a server started between two moments, so that what came of the first was another server's."""
        if since is None or until is None:
            return False
        return bisect.bisect(self.boots, since) < bisect.bisect(self.boots, until)

    def kinds(self, uid: str) -> list[str]:
        """The kinds of its events, in order."""
        return [str(event.WhichOneof("event")) for event in self.events.get(uid, [])]

    def result(self, uid: str) -> WorkResult:
        """The result of one that has completed."""
        found = WorkResult()
        self.events[uid][-1].completed.result.Unpack(found)
        return found

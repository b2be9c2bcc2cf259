"""Every order of `orders.jsonl` through a real server that is killed with SIGKILL halfway. None may be lost.

Nor may anything that goes on behind the orders: jobs, batches, a schedule, chased payments.

make demo
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

from acme.orders.v1.orders_longshore import OrdersClient
from acme.orders.v1.orders_pb2 import ProcessOrderRequest
from google.protobuf import json_format
from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table

from longshore_client import (
    CallError,
    Channel,
    DebounceClient,
    InvalidArgument,
    OperationFailed,
    Progress,
    TaskClient,
    connect,
)

sys.path.append(str(Path(__file__).parents[1]))
from stage import ServerProcess, shown

HERE = Path(__file__).parent
STEPS = ("waiting", "reserve", "charge", "ship")
ENDS = ("completed", "failed", "refused")
ID = re.compile(r"[A-Za-z0-9._~-]{1,128}")


class Board:
    """Where every order stands, and how that looks."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.at: dict[str, str] = {}
        self.reasons: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.news = ""
        self.half = asyncio.Event()
        """Set once half of the orders have ended."""
        self._started = time.monotonic()

    def move(self, order_id: str, place: str) -> None:
        """An order is somewhere else now."""
        self.at[order_id] = place
        if self.ended * 2 >= self.total:
            self.half.set()

    def count(self, place: str) -> int:
        """How many orders stand there."""
        return sum(1 for at in self.at.values() if at == place)

    @property
    def ended(self) -> int:
        """How many orders have ended, one way or another."""
        return sum(self.count(end) for end in ENDS)

    def __rich__(self) -> Group:
        table = Table.grid(padding=(0, 2))
        counts = Counter(self.at.values())
        colours = {"completed": "green", "failed": "yellow", "refused": "magenta"}
        for place in (*STEPS, *ENDS):
            colour = colours.get(place, "cyan")
            bar = ProgressBar(
                total=self.total, completed=counts[place], width=44, complete_style=colour, finished_style=colour
            )
            table.add_row(f"  {place:<10}", bar, f"{counts[place]:>4}")
        return Group(table, "", f"  {time.monotonic() - self._started:4.1f} s   {self.news}")


def read_orders() -> list[ProcessOrderRequest]:
    """The file's orders, good and bad."""
    lines = (HERE / "orders.jsonl").read_text("utf-8").splitlines()
    return [json_format.ParseDict(json.loads(line), ProcessOrderRequest()) for line in lines]


def expected(order: ProcessOrderRequest) -> str:
    """How this order must end, by its data alone."""
    if not ID.fullmatch(order.order_id):
        return "refused"
    if any(item.quantity < 1 or item.sku.startswith("discontinued-") for item in order.items) or order.amount < 0:
        return "failed"
    return "completed" if order.amount <= 500_000 or invoiced(order) else "failed"


def invoiced(order: ProcessOrderRequest) -> bool:
    """Whether it is paid later."""
    return order.order_id.startswith("B2B.")


def pays(order: ProcessOrderRequest) -> bool:
    """Whether this customer pays its invoices: one in three does not."""
    return int(order.order_id.removeprefix("B2B.")) % 3 > 0


def effects(order: ProcessOrderRequest) -> Counter[str]:
    """What a completed order has as effects, but for the reminders that one may have had before it was paid."""
    found = Counter({"reserve": len({item.sku for item in order.items}), "ship": 1, "webhook": 1})
    if not invoiced(order):
        return found + Counter(["charge"])
    return found + Counter(["invoice"] if pays(order) else ["invoice", "reminder 1", "reminder 2", "lawsuit"])


class Office:
    """What the outside world says to the shop, and what the shop says at the end of the day."""

    def __init__(self, channel: Channel) -> None:
        self._payments: TaskClient[Any, Any] = TaskClient(channel, "payment")
        self._shipments: DebounceClient[Any, Any] = DebounceClient(channel, "shipments")

    async def pay(self, order: ProcessOrderRequest) -> None:
        """The bank has the money for an invoice; of every other one not at once."""
        await asyncio.sleep(int(order.order_id[-1]) % 2 * 2.2)
        await self._payments.send(order.order_id, {"@type": "Paid", "cents": order.amount})

    async def close(self, unpaid: list[ProcessOrderRequest]) -> None:
        """Let no invoice wait for its time any more, and the partner not for the rest."""
        await asyncio.gather(*(self._give_up(order) for order in unpaid))
        await self._shipments.flush("logbook")

    async def _give_up(self, order: ProcessOrderRequest) -> None:
        while (await self._payments.trigger(order.order_id)).triggered:
            pass


async def follow(orders: OrdersClient, office: Office, order: ProcessOrderRequest, board: Board, delay: float) -> None:
    """One caller: start the order and watch it to its end, across whatever happens to the server."""
    key = order.order_id
    await asyncio.sleep(delay)
    board.move(key, "waiting")
    try:
        operation = await orders.process(order)
        async for event in operation.watch():
            if isinstance(event, Progress):
                board.move(key, event.value.step)
        await operation.wait()
    except InvalidArgument as error:
        board.move(key, "refused")
        board.refusals[error.reason] += 1
    except OperationFailed as error:
        board.move(key, "failed")
        board.reasons[error.reason] += 1
    except CallError as error:
        board.move(key, "lost")
        board.news = str(error)
    else:
        board.move(key, "completed")
        if invoiced(order) and pays(order):
            await office.pay(order)


async def kill_halfway(shop: ServerProcess, board: Board) -> None:
    """SIGKILL once half of the orders have ended, then start the server again."""
    await board.half.wait()
    under_way = len(board.at) - board.ended
    await shop.close(signal.SIGKILL)
    board.news = f"[bold red]SIGKILL[/] with {under_way} orders under way"
    await asyncio.sleep(1.5)
    await shop.open()
    board.news += "; started again, they go on"


async def main() -> int:
    """Run it, and say what became of every order. Exit code 0: all as the data demands, none lost, nothing twice."""
    console = Console()
    requests = read_orders()
    with tempfile.TemporaryDirectory(prefix="longshore-demo-") as folder:
        data = Path(folder)
        shop = ServerProcess(HERE / "service.py", data)
        console.print(f"\n  {len(requests)} orders, one server, one SQLite file. Halfway the server is killed.\n")
        board = Board(len(requests))
        with shown(board, console):
            await shop.open()
            async with connect(shop.address) as channel:
                orders, office = OrdersClient(channel), Office(channel)
                killer = asyncio.create_task(kill_halfway(shop, board))
                async with asyncio.TaskGroup() as callers:
                    for position, request in enumerate(requests):
                        callers.create_task(follow(orders, office, request, board, position * 0.01))
                await killer
                await office.close([r for r in requests if expected(r) == "completed" and invoiced(r) and not pays(r)])
            await shop.close(signal.SIGTERM)
        return report(console, board, requests, data)


def report(console: Console, board: Board, requests: list[ProcessOrderRequest], data: Path) -> int:
    """The final table, from the callers' side and from the ledger's."""
    wrong = sum(1 for request in requests if board.at.get(request.order_id) != expected(request))
    lost = sum(1 for request in requests if board.at.get(request.order_id) not in ENDS)
    with closing(sqlite3.connect(data / "ledger.db")) as ledger:
        made = ledger.execute("SELECT key, kind, subject, asked FROM effects").fetchall()
    asked = sum(times for *_, times in made)
    once = Counter((kind, subject) for _, kind, subject, _ in made)
    twice = sum(1 for count in once.values() if count > 1)
    of_order: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for kind, subject in once:
        of_order[subject.partition("/")[0]][kind] += 1
    kinds = Counter(kind for kind, _ in once)
    reminders = kinds["reminder 1"] + kinds["reminder 2"]
    batches = len({key for key, kind, *_ in made if kind == "webhook"})
    completed = [request for request in requests if board.at[request.order_id] == "completed"]
    missing = sum((effects(request) - of_order[request.order_id]).total() for request in completed)
    missing += sum(1 for number in range(1, kinds["exchange"]) if not once["exchange", f"token {number}"])
    reasons = ", ".join(f"{count} {reason}" for reason, count in board.reasons.most_common())
    refusals = ", ".join(f"{count} {reason}" for reason, count in board.refusals.most_common())
    table = Table.grid(padding=(0, 3))
    rows = [
        ("started", len(requests) - board.count("refused"), ""),
        ("completed", len(completed), ""),
        ("refused", board.count("refused"), f"{refusals}: their ids cannot be names"),
        ("failed", board.count("failed"), reasons),
        ("otherwise than the data demands", wrong, ""),
        ("lost", lost, ""),
        ("articles reserved", kinds["reserve"], "by jobs, at most four at a shelf"),
        ("orders told to the partner", kinds["webhook"], f"in {batches} batches"),
        ("tokens exchanged", kinds["exchange"], "one a day; days are short here"),
        ("invoices", kinds["invoice"], f"{reminders} reminders, {kinds['lawsuit']} lawsuits"),
        ("effects", len(made), f"asked for {asked} times, {asked - len(made)} of them again after the kill"),
        ("duplicated effects", twice, ""),
        ("missing effects", missing, ""),
    ]  # fmt: skip
    for name, count, note in rows:
        table.add_row(f"  {name}", f"[bold]{count}[/]", f"[dim]{note}[/]")
    console.print()
    console.print(table)
    good = not (wrong or lost or twice or missing)
    console.print(
        "\n  [green]✔ nothing lost, nothing done twice[/]\n" if good else "\n  [red]✘ this should not be[/]\n"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

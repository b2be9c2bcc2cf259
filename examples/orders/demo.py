"""Every order of `orders.jsonl` through a real server that is killed with SIGKILL halfway. None may be lost.

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
from collections import Counter
from pathlib import Path

from acme.orders.v1.orders_longshore import OrdersClient
from acme.orders.v1.orders_pb2 import ProcessOrderRequest
from google.protobuf import json_format
from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table

from longshore_client import CallError, InvalidArgument, OperationFailed, Progress, connect

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
    if any(item.quantity < 1 or item.sku.startswith("discontinued-") for item in order.items):
        return "failed"
    return "completed" if 0 <= order.amount <= 500_000 else "failed"


async def follow(orders: OrdersClient, order: ProcessOrderRequest, board: Board, delay: float) -> None:
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
                orders = OrdersClient(channel)
                killer = asyncio.create_task(kill_halfway(shop, board))
                async with asyncio.TaskGroup() as callers:
                    for position, request in enumerate(requests):
                        callers.create_task(follow(orders, request, board, position * 0.012))
                await killer
            await shop.close(signal.SIGTERM)
        return report(console, board, requests, data)


def report(console: Console, board: Board, requests: list[ProcessOrderRequest], data: Path) -> int:
    """The final table, from the callers' side and from the ledger's."""
    wrong = sum(1 for request in requests if board.at.get(request.order_id) != expected(request))
    lost = sum(1 for request in requests if board.at.get(request.order_id) not in ENDS)
    with sqlite3.connect(data / "ledger.db") as ledger:
        effects, asked = ledger.execute("SELECT count(*), sum(asked) FROM effects").fetchone()
        (twice,) = ledger.execute(
            "SELECT count(*) FROM (SELECT 1 FROM effects GROUP BY order_id, kind HAVING count(*) > 1)"
        ).fetchone()
    completed = board.count("completed")
    missing = completed * 3 - effects_of(data, [r.order_id for r in requests if board.at[r.order_id] == "completed"])
    reasons = ", ".join(f"{count} {reason}" for reason, count in board.reasons.most_common())
    refusals = ", ".join(f"{count} {reason}" for reason, count in board.refusals.most_common())
    table = Table.grid(padding=(0, 3))
    rows = [
        ("started", str(len(requests) - board.count("refused")), ""),
        ("completed", str(completed), ""),
        ("refused", str(board.count("refused")), f"{refusals}: their ids cannot be names"),
        ("failed", str(board.count("failed")), reasons),
        ("otherwise than the data demands", str(wrong), ""),
        ("lost", str(lost), ""),
        ("effects", str(effects), f"asked for {asked} times, {asked - effects} of them again after the kill"),
        ("duplicated effects", str(twice), ""),
        ("missing effects", str(missing), ""),
    ]
    for name, count, note in rows:
        table.add_row(f"  {name}", f"[bold]{count}[/]", f"[dim]{note}[/]")
    console.print()
    console.print(table)
    good = not (wrong or lost or twice or missing)
    console.print(
        "\n  [green]✔ nothing lost, nothing done twice[/]\n" if good else "\n  [red]✘ this should not be[/]\n"
    )
    return 0 if good else 1


def effects_of(data: Path, order_ids: list[str]) -> int:
    """How many effects the ledger holds for these orders."""
    with sqlite3.connect(data / "ledger.db") as ledger:
        found = dict(ledger.execute("SELECT order_id, count(*) FROM effects GROUP BY order_id").fetchall())
    return sum(found.get(order_id, 0) for order_id in order_ids)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

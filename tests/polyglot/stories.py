"""What callers of all languages do, and the table of it: one row a story, one column a client."""

from __future__ import annotations

CLIENTS = {
    "go": "Go",
    "node": "Node",
    "java": "Java",
    "rust": "Rust",
    "python": "Python",
    "grpcurl": "grpcurl",
}
"""The clients in `examples/clients`, and what their columns are called."""

STORIES = {
    "start": "starts by the contract's own RPC, and again under the same request id: one operation",
    "watch": "watches, is cut off amid it, and resumes: every event once, in order, and the end",
    "restart": "watches while the server is killed and started again",
    "drain": "watches a server that drains, asks it again now and then, and follows the next one",
    "silence": "watches over a connection that dies without a word, notices, and resumes",
    "elsewhere": "watches, is cut off, and meets a server that knows nothing of it: gives up, and says why",
    "wait": "waits for five seconds, then to the end",
    "signal": "signals, and again under the same signal id: one signal",
    "cancel": "cancels, twice: cancelled once",
    "list": "lists by a label, page by page",
    "upload": "uploads, is cut off amid it, and goes on where the server has it",
    "download": "downloads, is cut off amid it, and goes on where it was",
    "failure": "reads why an operation failed",
    "refusals": "reads every field of the details of refused calls",
    "longrunning": "`google.longrunning`: result and metadata in their types",
    "longrunning_error": "`google.longrunning`: the error of an operation that failed",
    "longrunning_cancelled": "`google.longrunning`: cancels, and sees it cancelled",
    "longrunning_deadline": "`google.longrunning`: its own time is up, and the operation goes on",
}
"""What clients do, by the name of the test that sees it done."""

_BY = {"go": "gax", "java": "gax", "python": "google-api-core", "node": "stub", "rust": "stub", "grpcurl": "stub"}
"""What clients speak google.longrunning with."""


def cell(story: str, client: str) -> str:
    """What stands in the table for a story that a client has been through."""
    return f"yes, by {_BY[client]}" if story.startswith("longrunning") else "yes"


def table() -> str:
    """The table, in Markdown."""
    lines = [["a client", *CLIENTS.values()], ["---"] * (len(CLIENTS) + 1)]
    lines += [[told, *(cell(story, client) for client in CLIENTS)] for story, told in STORIES.items()]
    return "\n".join(f"| {' | '.join(line)} |" if line[0] != "---" else f"|{'|'.join(line)}|" for line in lines)

"""Stores: where objects are. Each is declared by name, on the server or in its configuration."""

from __future__ import annotations

from longshore_server.transfers.stores.base import CHUNK, MAX_OBJECT, Data, Save, Store
from longshore_server.transfers.stores.local import LocalStore

__all__ = ["CHUNK", "MAX_OBJECT", "Data", "LocalStore", "Save", "Store"]

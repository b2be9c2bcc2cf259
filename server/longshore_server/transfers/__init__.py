"""Bytes that belong to operations: their keys, the objects they become, and the stores that hold them."""

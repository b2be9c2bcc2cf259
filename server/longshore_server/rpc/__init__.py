"""Thin services over the engine: decode, validate, call, encode. gRPC lives here and nowhere below."""

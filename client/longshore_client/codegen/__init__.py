"""From contracts in `.proto` files to typed Python modules.

`plugin` is the protoc plugin `protoc-gen-longshore`; `compile` runs protoc and the same generator over a team's files.
"""

"""The only SQL: one writer, a few readers, the schema. Mutations flow in, published commits and rows flow out."""

"""From descriptors to operation types: services flow in, checked operation types flow out."""

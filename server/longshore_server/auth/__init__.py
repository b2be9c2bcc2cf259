"""Who calls: credentials become a principal with capabilities. Knows neither gRPC nor operations."""

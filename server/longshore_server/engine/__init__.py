"""What decides: starts, attempts, recovery, deadlines and the watch. Knows neither SQL nor gRPC."""

"""What operators see: metrics for Prometheus, structured logs, traces by OpenTelemetry. Flows out only."""

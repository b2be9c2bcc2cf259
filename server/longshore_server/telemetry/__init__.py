"""What operators see: metrics for Prometheus and structured logs. Flows out only."""

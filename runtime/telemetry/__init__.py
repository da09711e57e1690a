"""What a service tells of itself while it runs: metrics of requests and stages, and events."""

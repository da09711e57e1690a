"""The actors that serve: coordinator, router, pipeline, stage and node."""

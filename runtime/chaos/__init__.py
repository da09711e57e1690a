"""Strikes against a running service, and a load on it that knows what every answer must be."""

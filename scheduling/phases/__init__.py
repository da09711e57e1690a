"""Which pipelines serve prefill, decode or both: chosen, routed, and changed as requests change."""

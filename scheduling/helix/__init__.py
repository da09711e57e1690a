"""Helix: placements of overlapping layer ranges, the flow they carry, and how to find them."""

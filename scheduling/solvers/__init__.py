"""Ways to find a plan: one algorithm a file, all with the one signature of `interface`."""

"""ShuntServe's estimator and placement, exactly as published, and a better search on it."""

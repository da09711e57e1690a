"""Pure decisions: plans, splits, blocks, batches and routes; no clock, no loop, no tensor."""

"""Tensors: shards of Hugging Face decoders, paged KV caches and sampling."""

"""Bytes between processes: frames, lanes, credits and peers; never what the bytes mean."""

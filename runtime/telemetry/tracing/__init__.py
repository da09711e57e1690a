"""Traces of requests: noted in plain values while they run, made into spans when they are over."""

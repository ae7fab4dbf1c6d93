"""Benchmarks of speed and memory, run by `make bench`; tests assert none of these figures."""

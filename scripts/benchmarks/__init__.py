"""The parts of scripts/benchmark.py: one module each, with a function ``measure() -> list[Comparison]``."""

"""Benchmarks of the library, run as ``python -m benchmarks.NAME``; they import no data set."""

"""Measures against peers and raw limits, interleaved in one run: `python -m benchmarks`."""

"""Benchmarks of a call against named peers: ``make bench``, or ``python -m benchmarks --help``.

A row is one small function in ``benchmarks/groups``; ``harness`` measures the rows, ``report`` prints them. See
docs/performance.md.
"""

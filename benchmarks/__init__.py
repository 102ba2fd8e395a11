"""What a call costs, beside named peers: ``make bench``, or ``python -m benchmarks --help``.

A row is one small function in ``benchmarks/groups``; ``harness`` measures, ``report`` tells. See docs/performance.md.
"""

"""EarnORM against the raw drivers and its peers, measured in one run: ``python -m benchmarks``.

The parent (``runner``) starts a worker process for each system, lets them take turns workload by
workload and round by round, holds their answers together, and prints ratios.
"""

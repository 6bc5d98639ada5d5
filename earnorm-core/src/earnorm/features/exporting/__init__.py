"""Tables for pandas, Polars and Arrow.

Attached by the methods ``to_pandas``, ``to_polars`` and ``to_arrow`` of Query and RecordSet.
"""

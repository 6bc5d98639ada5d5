"""Tables for pandas, Polars and Arrow."""

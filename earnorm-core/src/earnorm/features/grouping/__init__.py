"""Groups, aggregates and pipelines."""

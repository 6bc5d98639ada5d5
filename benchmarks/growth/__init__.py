"""``python -m benchmarks.growth``: what a document, a condition, a model … costs among ever more of them."""

"""Pydantic models of models, for request and response bodies."""

"""Pydantic models of models and embedded models, for request and response bodies, and their JSON Schema.

Attached by the class method ``pydantic_model``; it has no layer, no step and no hook.
"""

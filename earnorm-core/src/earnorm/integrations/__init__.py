"""Web frameworks: a thin module for each, around modules that import no framework.

``problems`` (errors as answers) and ``listings`` (what clients ask of a list) are the shared ones.
"""

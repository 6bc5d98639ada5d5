"""The work of a server on plain documents: filters, updates, unique keys and pipelines.

The memory backend answers with it. What this folder cannot do as a server does it refuses with
``NotImplementedError``, which becomes ``NotSupported``; it never guesses. Nothing in it imports a
driver's client, and nothing in it stores a document.
"""

"""Many writes sent together: ``bulk()`` collects operations, ``create_many()`` sends batches of a stream.

Attached by the class methods ``bulk`` and ``create_many``; the operations of a bulk have a note
with their sender.
"""

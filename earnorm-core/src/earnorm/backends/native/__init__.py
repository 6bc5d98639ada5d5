"""The compiled decoder: an optional module in C that decodes the documents of searches.

``_decoder.c`` says what it does. ``build`` compiles it, ``loading`` decides whether it is used,
``probe`` compares it with the driver when the first App starts, and ``replies`` puts it in the
driver's way. Without it the driver decodes, and nothing else differs.
"""

from __future__ import annotations

"""``python -m earnorm.cli``: the command line of exactly this interpreter."""

from __future__ import annotations

from earnorm.cli import main

main()

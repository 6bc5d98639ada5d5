"""``python -m earnorm.cli``: the command line, run by this interpreter."""

from __future__ import annotations

from earnorm.cli import main

main()

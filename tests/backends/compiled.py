"""The compiled decoder for tests: the installed one, or one that is compiled into a directory of the run."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from earnorm.backends.native import build, interface, loading


@cache
def library() -> Path:
    """Compile the decoder, once for a process.

    Sanitizers bring a module of their own: EARNORM_TEST_DECODER names it.
    """
    if "EARNORM_TEST_DECODER" in os.environ:
        return Path(os.environ["EARNORM_TEST_DECODER"])
    directory = Path(tempfile.mkdtemp(prefix="earnorm-decoder-"))
    try:
        return build.compile_decoder(directory)
    except build.BuildFailed as failure:
        if build.unsupported() is None and os.environ.get("EARNORM_NATIVE") == "1":
            pytest.fail(f"EARNORM_NATIVE=1, and the decoder cannot be compiled: {failure}")
        pytest.skip(str(failure))


def load(file: Path) -> ModuleType:
    """Load a compiled module from a file."""
    spec = spec_from_file_location(interface.MODULE, file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def compiled(module: ModuleType | None = None) -> Iterator[interface.Decoder]:
    """Let the process have the decoder inside of the block, and know no more of it afterwards."""
    before = sys.modules.get(interface.MODULE)
    sys.modules[interface.MODULE] = module or load(library())
    loading._look.cache_clear()
    try:
        assert loading._look().is_on, loading._look()
        yield interface.imported()
    finally:
        if before is None:
            del sys.modules[interface.MODULE]
        else:
            sys.modules[interface.MODULE] = before
        loading._look.cache_clear()

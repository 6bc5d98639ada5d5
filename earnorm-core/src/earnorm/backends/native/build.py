"""Compiles the decoder: ``python -m earnorm.backends.native.build [DIRECTORY [FLAG ...]]``.

The build of earnorm-core's wheel loads this file from its source tree, so it imports nothing of
EarnORM. The compiler and its flags are those with which this Python was built.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("_decoder.c")
NEWEST: Final = (3, 13)
"""The newest Python whose rules of memory the decoder was tested with."""


class BuildFailed(Exception):
    """The decoder cannot be compiled here; the message says why."""


def unsupported() -> str | None:
    """Return why the decoder is not for this Python; None if it is."""
    if sys.implementation.name != "cpython":
        return f"it is for CPython, and this is {sys.implementation.name}"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "it relies on the GIL, which this Python is built without"
    if sys.version_info[:2] > NEWEST:
        return f"it was not tested with a Python later than {'.'.join(map(str, NEWEST))}"
    if sys.byteorder != "little":
        return "it is for little-endian processors"
    return None


def file_name() -> str:
    """Return the name of the compiled module's file for this Python."""
    return f"_decoder{sysconfig.get_config_var('EXT_SUFFIX')}"


def compiler() -> list[str] | None:
    """Return the command of the C compiler: ``CC``, this Python's own, or one on the path."""
    stated = (os.environ.get("CC"), sysconfig.get_config_var("CC"), "cc", "gcc", "clang")
    for command in map(shlex.split, filter(None, stated)):
        if command and shutil.which(command[0]):
            return command
    return None


def compile_decoder(directory: Path, flags: Sequence[str] = ()) -> Path:
    """Compile the decoder for this Python.

    Args:
        directory: Takes the module.
        flags: More flags for the compiler.

    Returns:
        The module's file.

    Raises:
        BuildFailed: There is no compiler, this Python has no headers, or it is not supported.
    """
    reason = unsupported()
    if reason is not None:
        raise BuildFailed(reason)
    command = compiler() if os.name == "posix" else None
    if command is None:
        raise BuildFailed("no C compiler was found")
    names = ("CFLAGS", "CCSHARED")
    stated = [word for name in names for word in _words(name)]
    linking = _words("LDSHARED")[1:] or ["-shared"]
    target = directory / file_name()
    # Another process may be using the file, so it is replaced as a whole.
    beside = directory / f"{file_name()}.{os.getpid()}"
    command += [*stated, "-O3", "-fvisibility=hidden", *flags, *linking]
    paths = sysconfig.get_paths()
    command += [f"-I{paths[name]}" for name in ("include", "platinclude")]
    command += [str(SOURCE), "-o", str(beside)]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the compiler
        if done.returncode:
            raise BuildFailed(f"{shlex.join(command)}\n{done.stderr[-2000:]}")
        beside.replace(target)
    except OSError as error:
        raise BuildFailed(str(error)) from error
    finally:
        beside.unlink(missing_ok=True)
    return target


def _words(name: str) -> list[str]:
    return shlex.split(sysconfig.get_config_var(name) or "")


if __name__ == "__main__":
    place = Path(sys.argv[1]) if sys.argv[1:] else SOURCE.parent
    try:
        print(compile_decoder(place, sys.argv[2:]))  # noqa: T201 - the command's answer
    except BuildFailed as failure:
        sys.exit(f"the decoder was not compiled: {failure}")

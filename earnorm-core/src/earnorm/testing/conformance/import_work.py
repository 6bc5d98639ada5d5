"""A program that imports a plugin's module and prints, as JSON, what the import does beside that.

It runs as a file in a Python of its own, so it imports nothing of EarnORM before the module does.
Work counts if the plugin's own package does it: the innermost module that is being imported is one of
its own. What a library does when it is imported is not the plugin's.
"""

import importlib
import importlib.util
import json
import logging
import os
import sys
import threading
from types import FrameType

_EVENTS = {
    "socket.__new__": "opens a socket",
    "socket.getaddrinfo": "looks up an address",
    "subprocess.Popen": "starts a process",
    "os.system": "starts a process",
    "os.posix_spawn": "starts a process",
    "os.fork": "starts a process",
    "os.putenv": "changes the environment",
    "os.unsetenv": "changes the environment",
    "os.mkdir": "makes a directory",
    "os.remove": "removes a file",
    "os.rename": "renames a file",
    "os.rmdir": "removes a directory",
    "os.truncate": "changes a file",
    "os.link": "makes a file",
    "os.symlink": "makes a file",
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Work:
    """Notes what is done while a package is imported.

    Args:
        package: The plugin's package; work of other packages does not count.
    """

    def __init__(self, package: str) -> None:
        self.package = package
        self.found: dict[str, None] = {}
        self.is_watching = False

    def note(self, what: str) -> None:
        """Note work, if a module of the package does it."""
        if not self.is_watching:
            return
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_name != "<module>":
            frame = frame.f_back
        if frame is None or str(frame.f_globals.get("__name__")).partition(".")[0] != self.package:
            return
        place = f"{os.path.basename(frame.f_code.co_filename)}, line {frame.f_lineno}"
        self.found[f"{what} ({place})"] = None

    def audit(self, event: str, arguments: tuple[object, ...]) -> None:
        """Look at one audit event of the interpreter."""
        if event in _EVENTS:
            self.note(_EVENTS[event])
        elif event == "open":
            flags = arguments[2]
            if isinstance(flags, int) and flags & _WRITING:
                self.note("opens a file to write")


class _Printed:
    """Stands for standard output and error while the module is imported."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def write(self, text: str) -> int:
        self._work.note("prints")
        return len(text)

    def flush(self) -> None:
        """Do nothing."""

    def isatty(self) -> bool:
        return False


def _watched(module: str, file: str) -> list[str]:
    work = Work(module.partition(".")[0])
    start, add = threading.Thread.start, logging.Logger.addHandler

    def start_noted(self: threading.Thread) -> None:
        work.note("starts a thread")
        start(self)

    def add_noted(self: logging.Logger, hdlr: logging.Handler) -> None:
        if self is logging.root:
            work.note("configures logging")
        add(self, hdlr)

    threading.Thread.start = start_noted  # type: ignore[method-assign] # to see that it is called
    logging.Logger.addHandler = add_noted  # type: ignore[method-assign] # to see that it is called
    sys.addaudithook(work.audit)
    output = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = _Printed(work)
    work.is_watching = True
    try:
        _import(module, file)
    finally:
        work.is_watching = False
        sys.stdout, sys.stderr = output
    return list(work.found)


def _import(module: str, file: str) -> None:
    try:
        found = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        found = False
    if found:
        importlib.import_module(module)
        return
    # A module that pytest or a program loaded from its file, and not by its name.
    spec = importlib.util.spec_from_file_location(module, file)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[module] = loaded
    spec.loader.exec_module(loaded)


if __name__ == "__main__":
    module_name, file_name, *path = sys.argv[1:]
    sys.path[:] = path
    print(json.dumps(_watched(module_name, file_name)), flush=True)
    os._exit(0)  # a thread that the module started must not keep the program

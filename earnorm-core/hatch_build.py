"""Compiles the decoder into earnorm-core's wheel where a C compiler and Python's headers are.

Without them the wheel is a pure one, and the driver decodes. EARNORM_NATIVE=0 makes a pure wheel anywhere;
EARNORM_NATIVE=1 makes a failure an error.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = Path("src", "earnorm", "backends", "native")


class CompiledDecoder(BuildHookInterface[Any]):
    """Adds the compiled module to a wheel, or puts it into the source tree of an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the decoder before the files are collected."""
        wanted = os.environ.get("EARNORM_NATIVE", "")
        if self.target_name != "wheel" or wanted == "0":
            return
        source = Path(self.root, PACKAGE)
        spec = importlib.util.spec_from_file_location("earnorm_native_build", source / "build.py")
        assert spec is not None and spec.loader is not None
        build = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(build)
        self._directory = tempfile.TemporaryDirectory()
        # What an editable install imports is the source tree.
        directory = source if version == "editable" else Path(self._directory.name)
        try:
            compiled = build.compile_decoder(directory)
        except build.BuildFailed as failure:
            if wanted == "1":
                raise
            self.app.display_warning(f"earnorm-core without the compiled decoder: {failure}")
            return
        if version != "editable":
            place = PACKAGE.relative_to("src") / compiled.name
            build_data["force_include"][str(compiled)] = str(place)
            build_data["pure_python"] = False
            build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the directory in which it was compiled."""
        directory = getattr(self, "_directory", None)
        if directory is not None:
            directory.cleanup()

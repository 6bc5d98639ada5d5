"""The cells of a notebook: what one starts is found by the next, and each may be run again.

A real kernel runs the cells, each in a task of its own, whose context variables end with it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

MODEL = """
from earnorm import String, models

class Note(models.BaseModel):
    _name = "notebooks.note"
    text = String()
"""
INIT = """
import earnorm
app = await earnorm.init("mongomock://", database="notebook", plugins=[])
"""

Cell = Callable[[str], str]


@pytest.fixture(scope="module")
def kernel() -> Iterator[Any]:
    manager = KernelManager(kernel_name="python3")
    spec = manager.kernel_spec
    assert spec is not None
    spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.fixture
def cell(kernel: Any) -> Iterator[Cell]:
    """Run a cell; return what it printed, or the text of its error."""

    def run(code: str) -> str:
        told: list[str] = []

        def note(message: Any) -> None:
            content = message["content"]
            told.append(content.get("evalue") or content.get("text") or "")

        kernel.execute_interactive(code, output_hook=note, timeout=60)
        return "".join(told).strip()

    yield run
    run("await earnorm.close()")


def test_an_app_that_one_cell_starts_is_found_by_the_next(cell: Cell) -> None:
    assert cell(MODEL) == ""
    started = 'import earnorm; app = earnorm.App("mongomock://", database="x", plugins=[])'
    assert cell(f"{started}; await app.start()") == ""
    assert cell('await Note.create({"text": "a"}); print(await Note.count())') == "1"
    assert cell("await app.stop()") == ""


def test_cells_of_init_and_of_models_may_be_run_again(cell: Cell) -> None:
    assert cell(INIT) == "" and cell(MODEL) == ""
    assert cell('await Note.create({"text": "a"}); first = app') == ""
    assert cell(INIT) == "" and cell(MODEL) == ""
    assert cell("print(await Note.count(), app is first)") == "1 True"


def test_other_settings_name_what_differs_and_how_to_replace_the_app(cell: Cell) -> None:
    assert cell(INIT) == ""
    other = 'await earnorm.init("mongomock://u:secret@h", database="notebook", plugins=[])'
    told = cell(other)
    assert "with another mongo_uri: 'await earnorm.close()' first" in told and "secret" not in told
    replaced = 'app = await earnorm.init("mongomock://", database="other", plugins=[])'
    assert "with another database" in cell(replaced)
    assert cell(f"await earnorm.close(); {replaced}; print(app.name)") == "other"

"""The order of start and stop, ``requires``, and a stop that everything gets to hear of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earnorm import App, PluginError, hookimpl
from earnorm.backends.memory import MemoryBackend
from tests.plugins.contract.conftest import Distribute

Action = Callable[[App], Awaitable[None]]


async def nothing(app: App) -> None:
    """Do nothing."""


def plugin(
    name: str,
    log: list[str],
    requires: object = (),
    *,
    stop: Action = nothing,
    start: Action = nothing,
    version: str | None = None,
) -> type:
    """A plugin class that notes its start and its stop."""

    class Noting:
        api = 1

        @hookimpl
        async def startup(self, app: App) -> None:
            log.append(f"+{name}")
            await start(app)

        @hookimpl
        async def shutdown(self, app: App) -> None:
            log.append(f"-{name}")
            await stop(app)

    members: dict[str, Any] = {"name": name, "requires": requires}
    if version is not None:
        members["version"] = version
    return type(name, (Noting,), members)


def app(*plugins: object, **keywords: Any) -> App:
    return App("mongomock://", database="order", plugins=plugins, **keywords)


async def test_a_stop_runs_in_the_reverse_order_of_the_start() -> None:
    log: list[str] = []
    async with app(plugin("b", log), plugin("c", log), plugin("a", log)):
        pass
    assert log == ["+a", "+b", "+c", "-c", "-b", "-a"]


async def test_a_plugin_starts_after_what_it_requires_and_stops_before_it() -> None:
    log: list[str] = []
    async with app(plugin("a", log, ["z"]), plugin("m", log), plugin("z", log, ["m"])):
        pass
    assert log == ["+m", "+z", "+a", "-a", "-z", "-m"]


@given(st.lists(st.sets(st.integers(0, 6)), min_size=7, max_size=7))
def test_every_plugin_starts_after_all_that_it_requires(wanted: Sequence[set[int]]) -> None:
    names = "gfedcba"  # the order of the names is against that of the requirements
    needs = [{names[i] for i in numbers if i < number} for number, numbers in enumerate(wanted)]
    made = [plugin(names[n], [], sorted(needed)) for n, needed in enumerate(needs)]
    order = list(app(*made).loaded.start_order)
    for number, needed in enumerate(needs):
        for name in needed:
            assert order.index(name) < order.index(names[number])
    assert [n for n in order if n in names] == order[-7:]  # the core's own plugins come first


REFUSED: dict[str, tuple[object, str]] = {
    "not installed": (["nonsuch"], "'nonsuch' is not installed: pip install earnorm-nonsuch"),
    "misspelt": (["bse"], "'bse' is not installed; did you mean 'base'?"),
    "too old": (["base>=2"], "it requires 'base>=2', and this is base 1.4; install another"),
    "a text": ("base", "'requires' is a list of names, as in requires = ['security>=0.1']"),
    "no requirement": (["base => 1"], "'base => 1' in 'requires' is no name with a version"),
    "no text": ([3], "3 in 'requires' is no name with a version"),
    "without a version": (["bare>=1"], "'bare' has no version; give its class one"),
    "itself": (["a"], "plugins require each other: a -> a"),
    "disabled": (["off"], "'off' is disabled: "),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_requirement_that_cannot_be_met_is_refused(what: str, distribute: Distribute) -> None:
    distribute("off", "class Plugin:\n    api = 1\n")
    requires, told = REFUSED[what]
    given_plugins = (
        plugin("base", [], version="1.4"),
        plugin("bare", []),
        plugin("a", [], requires),
    )
    with pytest.raises(PluginError) as caught:
        app(*given_plugins, disabled=["off"])
    assert told in str(caught.value)
    assert caught.value.code == "plugin_requires"


def test_plugins_that_require_each_other_are_refused() -> None:
    with pytest.raises(PluginError, match="require each other: a -> c -> b -> a"):
        app(plugin("b", [], ["a"]), plugin("a", [], ["c"]), plugin("c", [], ["b"]))


def test_requirements_that_are_met_are_taken(distribute: Distribute) -> None:
    distribute("base", "class Plugin:\n    api = 1\n")  # version 1.2 of its distribution
    needs = ["base>=1,<2", "base", "revisions>=0.1", "model", "other == 3.*"]
    made = app("base", plugin("a", [], needs), plugin("other", [], version="3.1"))
    assert [i.name for i in made.plugins if i.status == "active"] == ["a", "base", "other"]
    with pytest.raises(PluginError, match="'base' is not selected: plugins="):
        app(plugin("a", [], ["base"]))
    with pytest.raises(PluginError, match="'revisions' is a feature that this App leaves out"):
        app(plugin("a", [], ["revisions"]), disabled=["revisions"])


# -- a stop ---------------------------------------------------------------------------------------


async def await_a_cancelled_task(app: App) -> None:
    task = asyncio.create_task(asyncio.sleep(3600))
    await asyncio.sleep(0)
    task.cancel()
    await task


async def test_a_plugin_that_awaits_its_cancelled_task_is_told_and_the_others_stop() -> None:
    log: list[str] = []
    running = app(plugin("a", log), plugin("b", log, stop=await_a_cancelled_task))
    await running.start()
    with pytest.raises(PluginError, match=r"'b' failed in its hook shutdown.*CancelledError"):
        await running.stop()
    assert log[2:] == ["-b", "-a"]
    assert not running.is_started
    await running.stop()
    assert len(log) == 4


@pytest.mark.parametrize("catches", [False, True])
async def test_a_cancelled_stop_stops_every_plugin_and_stays_cancelled(catches: bool) -> None:
    log: list[str] = []
    waiting = asyncio.Event()

    async def wait(app: App) -> None:
        waiting.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            if not catches:
                raise

    running = app(plugin("a", log), plugin("b", log, stop=wait))
    await running.start()
    stopping = asyncio.create_task(running.stop())
    await waiting.wait()
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert log[2:] == ["-b", "-a"]
    assert not running.is_started
    await running.start()  # nothing of the first start is left
    assert log[4:] == ["+a", "+b"]
    waiting.clear()
    stopping = asyncio.create_task(running.stop())
    await waiting.wait()
    stopping.cancel()
    await asyncio.wait([stopping])


async def test_connections_are_closed_where_the_closing_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[str] = []
    closing = asyncio.Event()

    class Slow(MemoryBackend):
        async def close(self) -> None:
            events.append("close")
            if len(events) == 1:
                closing.set()
                await asyncio.sleep(3600)
            await super().close()
            events.append("closed")

    monkeypatch.setattr("earnorm.backends.memory.MemoryBackend", Slow)
    running = app()
    await running.start()
    stopping = asyncio.create_task(running.stop())
    await closing.wait()
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert events == ["close", "close", "closed"]
    assert not running.is_started


async def test_a_timeout_of_a_stop_is_a_timeout() -> None:
    async def wait(app: App) -> None:
        await asyncio.sleep(3600)

    log: list[str] = []
    running = app(plugin("a", log), plugin("b", log, stop=wait))
    await running.start()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await running.stop()
    assert log[2:] == ["-b", "-a"]


async def test_every_failure_of_a_stop_is_told_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(app: App) -> None:
        raise OSError("no disk")

    running = app(plugin("a", [], stop=fail), plugin("b", [], stop=fail))
    await running.start()
    with pytest.raises(PluginError, match="'b' failed"):
        await running.stop()
    assert "plugin 'a' failed in its hook shutdown" in caplog.text


async def test_two_tasks_that_stop_one_app_shut_its_plugins_down_once() -> None:
    log: list[str] = []
    seen: list[bool] = []

    async def look(app: App) -> None:
        await asyncio.sleep(0.01)
        await app.stop()  # from inside of the stop itself: nothing to do
        seen.append(app.is_started)

    running = app(plugin("a", log, stop=look))
    await running.start()
    await asyncio.gather(running.stop(), running.stop())
    assert log == ["+a", "-a"]
    assert seen == [True]


async def test_a_failed_start_stops_what_had_started_and_tells_its_own_reason() -> None:
    async def fail(app: App) -> None:
        raise RuntimeError("the real reason")

    log: list[str] = []
    failing = app(
        plugin("a", log),
        plugin("b", log, stop=await_a_cancelled_task),
        plugin("c", log, start=fail),
    )
    with pytest.raises(PluginError, match=r"'c' failed in its hook startup.*the real reason"):
        await failing.start()
    assert log == ["+a", "+b", "+c", "-b", "-a"]
    assert not failing.is_started

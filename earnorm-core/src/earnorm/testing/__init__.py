"""The test kit of EarnORM, for applications and for plugins (``docs/testing.md``).

The pytest fixtures are loaded by ``pytest_plugins = ["earnorm.testing.fixtures"]`` in the root
``conftest.py``. Nothing else of the kit needs pytest, and no other part of EarnORM imports the kit.
"""

from earnorm.testing.apps import app_with
from earnorm.testing.conformance import PluginBreaksContract, check_plugin, plugin_tests
from earnorm.testing.factories import Factory, make
from earnorm.testing.queries import Queries, assert_queries, count_queries
from earnorm.testing.recorder import Event, Recorder, recording
from earnorm.testing.rollbacks import rolled_back
from earnorm.testing.scheduler import Interrupted, Scheduler
from earnorm.testing.servers import mongod, redis_server
from earnorm.testing.times import FrozenTime, frozen_time

__all__ = [
    "Event",
    "Factory",
    "FrozenTime",
    "Interrupted",
    "PluginBreaksContract",
    "Queries",
    "Recorder",
    "Scheduler",
    "app_with",
    "assert_queries",
    "check_plugin",
    "count_queries",
    "frozen_time",
    "make",
    "mongod",
    "plugin_tests",
    "recording",
    "redis_server",
    "rolled_back",
]

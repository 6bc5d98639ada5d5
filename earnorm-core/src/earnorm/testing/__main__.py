"""``python -m earnorm.testing -- command …``: runs a command with a real MongoDB for its tests.

All processes of the command share the server, for example the workers of ``pytest -n 8``.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

from earnorm.exceptions import ServerUnavailable
from earnorm.testing.commands import end_on_sigterm, run_command
from earnorm.testing.servers import MONGO_URI_VARIABLE, REDIS_URL_VARIABLE, mongod, redis_server

USAGE = "usage: python -m earnorm.testing [--redis] -- command [argument …]"


def main(arguments: Sequence[str]) -> int:
    """Run the command between a start and a stop of the servers; return its exit code."""
    with_redis = arguments[:1] == ["--redis"]
    command = arguments[1:] if with_redis else arguments
    if len(command) < 2 or command[0] != "--":
        print(USAGE, file=sys.stderr)
        return 2
    end_on_sigterm()
    try:
        with contextlib.ExitStack() as stack:
            environment = {MONGO_URI_VARIABLE: stack.enter_context(mongod())}
            if with_redis:
                environment[REDIS_URL_VARIABLE] = stack.enter_context(redis_server())
            return run_command(command[1:], environment)
    except ServerUnavailable as error:
        print(f"earnorm.testing: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

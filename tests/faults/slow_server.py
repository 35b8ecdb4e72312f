"""``star-server serve`` with the workers of :mod:`tests.faults.slow_engine`.

Everything but the model is the real thing: the server process, its sockets, the supervisor, the worker process with
its heartbeat and main loop, the processes that decode uploads. ``python -m tests.faults.slow_server '{...settings}'``
"""

from __future__ import annotations

import json
import sys


def main() -> int:
    """Serve with the settings of the first argument, in JSON."""
    # Here, since a worker process imports this module too, and needs none of it.
    from server.commands.serve import serve
    from server.errors import UsageError
    from server.settings import Settings
    from tests.faults.slow_engine import run_slow_worker

    try:
        serve(Settings(**json.loads(sys.argv[1])), run_slow_worker)
    except UsageError as error:
        print(f"star-server: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

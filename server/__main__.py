"""``python -m server`` is ``star-server``."""

from __future__ import annotations

if __name__ == "__main__":  # a worker process imports this module too, and must not start over
    import sys

    from server.commands.cli import main

    sys.exit(main())

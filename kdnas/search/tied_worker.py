"""A worker that ends with the process that started it, as one on Ray does; otherwise `kdnas.search.worker`."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

LOOK_S = 1.0


def tie() -> None:
    """From here on this process is asked to end, as by SIGTERM, once its parent is gone."""
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, name="tie", daemon=True).start()


if __name__ == "__main__":
    tie()
    from kdnas.search.worker import main

    sys.exit(main())

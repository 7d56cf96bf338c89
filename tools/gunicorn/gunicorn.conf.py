"""gunicorn for an application that uses sona_shm: copy this file and change what is in capitals.

In the application's handlers: ``worker_engine("ENGINE").route(...)``, from
`sona_shm.integrations.worker`.  Start it as the user that the workers run as, with
``gunicorn -c gunicorn.conf.py``.
"""

from __future__ import annotations

import os
from pathlib import Path

from sona_shm.integrations.gunicorn import GunicornHooks

wsgi_app = os.environ.get("APPLICATION", "MODULE:APPLICATION")
worker_class = os.environ.get("WORKER_CLASS", "sync")  # "gthread", "uvicorn_worker.UvicornWorker"
bind = os.environ.get("BIND", "127.0.0.1:8000")

# Workers share what they learn and no memory besides: as many as the requests need.  In the
# engine's configuration, max_workers should be twice this number, because at a reload old and new
# workers live side by side.
workers = int(os.environ.get("WORKERS", "4"))

# A worker that hangs is killed after `timeout` seconds.  It loses nothing that it has recorded, and
# its lane is free at once, so neither this nor max_requests needs any care.
timeout = 30
graceful_timeout = 30
max_requests = 0

# Imports once, in the master, and shares the memory of what was imported.  The application must
# not use the engine at import; handlers, or the start of an ASGI application's life, are the place.
preload_app = False

# learners=2: the master keeps one that learns and one that takes over when that one dies.
# learners=0: a daemon learns, such as `sona learner ENGINE --checkpoint DIR` under systemd.
# Add checkpoint="DIR" to find again after a reboot what was learned, journal="DIR" for sona replay.
sona = GunicornHooks(
    os.environ.get("ENGINE", "ENGINE"),
    os.environ.get("ENGINE_CONFIG", Path(__file__).with_name("engine.toml")),
    learners=int(os.environ.get("LEARNERS", "2")),
)
on_starting, on_reload, on_exit = sona.on_starting, sona.on_reload, sona.on_exit
post_fork, child_exit = sona.post_fork, sona.child_exit

"""Four workers, and two learners: one learns, one stands by."""

import sys
from pathlib import Path

from sona_shm.integrations.gunicorn import GunicornHooks

chdir = str(Path(__file__).resolve().parent.parent)
sys.path.insert(0, chdir)  # this file is read before gunicorn goes there

from router.settings import load  # noqa: E402  # found by the line above

wsgi_app = "router.app:app"
bind = "127.0.0.1:8000"
workers = 4
worker_class = "uvicorn_worker.UvicornWorker"

_settings = load()
_sona = GunicornHooks(_settings.name, _settings.engine, learners=2)
on_starting, on_reload, on_exit = _sona.on_starting, _sona.on_reload, _sona.on_exit
post_fork, child_exit = _sona.post_fork, _sona.child_exit

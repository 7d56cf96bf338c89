"""``python -m sona_shm.cli`` is the same as ``sona``."""

import sys

from sona_shm.cli.main import main

sys.exit(main())

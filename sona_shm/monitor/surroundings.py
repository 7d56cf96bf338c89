"""What else of a host matters to engines: files that are nobody's, room, the platform."""

from __future__ import annotations

import os
import platform
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from sona_shm.monitor.diagnosis import Finding
from sona_shm.shm.access import user_name
from sona_shm.shm.names import SHARED_MEMORY, engine_of

# What glibc's sem_open makes first, and then links to the name that was asked for.
_TEMPORARY: Final = re.compile(r"sem\.[A-Za-z0-9]{6}")
_TEMPORARY_BYTES: Final = 32
#: What Docker gives without being asked.
DOCKER_BYTES: Final = 64 << 20
_NEARLY_FULL: Final = 0.05
_FIRST_PERSON: Final = 1000


def strange_files(files: Mapping[str, os.stat_result]) -> Iterator[Finding]:
    """Files that look like parts of engines and are none; nothing of ours removes them."""
    for file, found in files.items():
        path = SHARED_MEMORY / file
        if file.startswith(("sona-", "sem.sona-")):
            if engine_of(file) is None:
                text = f"no engine has a part named {file!a}"
                yield Finding(str(SHARED_MEMORY), text, f"ls -ldb {SHARED_MEMORY}/*", problem=False)
            elif not stat.S_ISREG(found.st_mode):
                text = "it has the name of a part of an engine and is no file"
                yield Finding(str(path), text, f"rm -ri {path}", problem=True)
        elif _TEMPORARY.fullmatch(file) and found.st_size in (0, _TEMPORARY_BYTES):
            text = (
                "perhaps left by a process that was killed while it made a semaphore (of an engine "
                "or of anything else)"
            )
            yield Finding(str(path), text, f"fuser -v {path} || rm -i {path}", problem=False)


def room_findings(total: int, free: int) -> Iterator[Finding]:
    """Whether ``/dev/shm`` is large enough."""
    enlarge = "docker run --shm-size=1g ..., or: mount -o remount,size=1G /dev/shm"
    if total <= DOCKER_BYTES:
        text = f"it has {total >> 20} MB in all; an engine of default size takes 46 to 67 MB"
        yield Finding(str(SHARED_MEMORY), text, enlarge, problem=False)
    if free < _NEARLY_FULL * total:
        text = f"{free >> 10:,} of {total >> 10:,} KB are free"
        yield Finding(str(SHARED_MEMORY), text, f"{enlarge}; du -a {SHARED_MEMORY}", problem=True)


def platform_findings() -> Iterator[Finding]:
    """What of this host is not what this package was made for."""
    machine = f"{platform.system()} {platform.machine()}"
    if sys.platform != "linux" or sys.maxsize < 2**63 - 1 or sys.byteorder != "little":
        text = f"this is {machine}; only 64-bit little-endian Linux is supported"
        yield Finding("host", text, "use such a host", problem=True)
    elif platform.machine() != "x86_64":
        text = f"this is {machine}; only x86_64 was tested"
        yield Finding("host", text, "run the package's tests here: make test", problem=False)
    if platform.libc_ver()[0] != "glibc":
        text = "the C library is not glibc, which keeps semaphores in /dev/shm/sem.*"
        yield Finding("host", text, "use a distribution with glibc", problem=True)
    user = user_name(os.geteuid())
    lingers = Path("/var/lib/systemd/linger", user).exists()
    if os.geteuid() >= _FIRST_PERSON and Path("/run/systemd/system").is_dir() and not lingers:
        text = (
            f"systemd removes the shared memory of {user} when the last session of {user} ends, "
            "unless logind.conf has RemoveIPC=no"
        )
        yield Finding("host", text, f"loginctl enable-linger {user}", problem=False)

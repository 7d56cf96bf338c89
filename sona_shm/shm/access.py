"""Who may use an engine: the user who made it, and one group where the configuration names it.

Reading is as good as writing: whoever may map the memory can change it.  So there are two modes,
0600 and 0660.  Removing a file from ``/dev/shm``, which is sticky, is its owner's alone.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path
from typing import Final

from sona_shm.errors import ConfigError, EngineForbidden

_PRIVATE: Final = 0o600
_OF_A_GROUP: Final = 0o660


def group_id(group: str) -> int | None:
    """The number of a group that this process may share an engine with; None for no group.

    Raises
    ------
    ConfigError
        If there is no such group on this host, or the caller is not in it.
    """
    if not group:
        return None
    try:
        number = grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(
            f"group is {group!r}, and this host has no such group; make it (groupadd {group}), or "
            "name another one; '' shares with nobody"
        ) from None
    if os.geteuid() != 0 and number not in (os.getegid(), *os.getgroups()):
        caller = user_name(os.geteuid())
        raise ConfigError(
            f"group is {group!r}, and {caller} is not in it; add the user (usermod -aG {group} "
            f"{caller}) and log in anew, or name another group"
        )
    return number


def give_access(file: int | Path, group: int | None) -> None:
    """Set group and mode of a new file of ours, whatever the umask: never more than both allow.

    Raises
    ------
    ConfigError
        If the kernel refuses, as it does where root has no right to change groups.
    """
    if group is not None:
        try:
            os.chown(file, -1, group)
        except OSError as error:
            raise ConfigError(
                f"the engine cannot be given to the group {_group_name(group)}: {error.strerror}; "
                "name a group of this user and of this user namespace"
            ) from None
    os.chmod(file, _PRIVATE if group is None else _OF_A_GROUP)  # noqa: PTH101  # or a descriptor


def user_name(number: int) -> str:
    """What a user is called, for people."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return f"gid {number}"


def forbidden(file: Path) -> EngineForbidden:
    """The error for a file that this user may not open."""
    try:
        found = file.lstat()
    except OSError:
        return EngineForbidden(f"{file} belongs to another user; work as the user who made it")
    owner, caller = user_name(found.st_uid), user_name(os.geteuid())
    if stat.S_IMODE(found.st_mode) & stat.S_IRWXG:
        group = _group_name(found.st_gid)
        return EngineForbidden(
            f"{file} belongs to {owner} and the group {group}, and {caller} is not in it; "
            f"add the user (usermod -aG {group} {caller}) and log in anew, or work as {owner}"
        )
    return EngineForbidden(
        f"{file} belongs to {owner} and is closed to {caller}; work as {owner}, or have {owner} "
        "make the engine with the setting group, a Unix group that both are in"
    )


def not_the_owner(file: Path) -> EngineForbidden:
    """The error for a file that this user may not remove."""
    try:
        owner = user_name(file.lstat().st_uid)
    except OSError:
        owner = "another user"
    return EngineForbidden(
        f"{file} belongs to {owner}, and {user_name(os.geteuid())} may not remove it; have {owner} "
        "do it, or root"
    )

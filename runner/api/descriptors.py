"""How many connections the system's limit of open files has room for."""

from __future__ import annotations

import resource

from runner.errors import BadConfiguration

_FILES_BESIDE_CONNECTIONS = 40


def affordable(count: int) -> int:
    """How many of `count` calls at once the system's limit of open files has room for, once it is raised."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY:
        return count
    return max(1, min(count, hard - _FILES_BESIDE_CONNECTIONS))


def allow_connections(count: int) -> None:
    """Raises the process's soft limit of open files where `count` calls need it (macOS starts at 256).

    Raises BadConfiguration where the system does not allow so many.
    """
    needed = count + _FILES_BESIDE_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    try:
        # Beyond the hard limit, or the kernel's own, this is a ValueError or an OSError by platform.
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (ValueError, OSError) as error:
        raise BadConfiguration(
            f"{count} calls at once need {needed} open files, and the system does not allow so many. "
            "Lower --concurrency, or raise the limit (ulimit -n)."
        ) from error

"""What a process asks of its system: to end with its parent, to hold many files open."""

from __future__ import annotations

import ctypes
import resource
import signal

from brewhouse.errors import ConfigError

_PR_SET_PDEATHSIG = 1


def die_with_parent(with_signal: signal.Signals) -> None:
    """Ask Linux to signal this process when its parent dies; elsewhere nothing happens.

    A training process left over from a killed run would go on writing where the next run reads.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, with_signal)


_SPARE = 256
"""Files that libraries may hold open besides ours."""
_FEWEST = 64
"""Those that they will."""


def allow_open_files(wanted: int, *, what: str) -> None:
    """Raise this process's limit of open files, as far as its system lets it.

    Args:
        wanted: Files that will be open at once.
        what: What they are, for the error.

    Raises:
        ConfigError: The system allows fewer.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _SPARE
    if hard != resource.RLIM_INFINITY:
        needed = max(wanted + _FEWEST, min(needed, hard))
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    if hard != resource.RLIM_INFINITY and needed > hard:
        msg = (
            f"{what}: {needed:,} files would be open at once and the system allows {hard:,}; "
            "make them fewer, or raise the limit (ulimit -Hn)"
        )
        raise ConfigError(msg)
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))

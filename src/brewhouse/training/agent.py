"""torchrun that says how it ended: `python -m brewhouse.training.agent [torchrun's arguments]`.

torchrun itself ends with 1 whatever happened, and a cluster cannot tell a lost node from a typing
error. Here the process ends as its ranks did: 75 after a checkpoint on a signal (start again), 2 to
11 for an error of ours that starting again would not mend, anything else as it came.
"""

from __future__ import annotations

import os
import sys
from typing import Any

SHUTDOWN_S = 900
"""Seconds ranks are given to write a checkpoint; the cluster's grace period ends it sooner."""
RETRY_EXIT_CODE = 75
"""EX_TEMPFAIL: stopped by a signal with a checkpoint written; start again to go on."""


def main(arguments: list[str] | None = None) -> int:
    """Run torchrun in this process; return what its first failed rank did, or 0."""
    # torchrun's own default kills ranks 30 seconds after a signal, in the middle of a large save.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SHUTDOWN_S))
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        command: Any = torchrun
        command.run(command.parse_args(arguments))
    except ChildFailedError as error:
        print(f"train: {error}", file=sys.stderr, flush=True)
        codes = [f.exitcode for f in error.failures.values()]
        # A rank that fails takes the others with it, by a signal or a lost connection.
        ours = [code for code in codes if code == RETRY_EXIT_CODE or 2 <= code <= 11]
        code = ours[0] if ours else error.get_first_failure()[1].exitcode
        return code if code > 0 else 128 - code
    except SignalException:
        return RETRY_EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main())

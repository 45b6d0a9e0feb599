"""`torchrun -m brewhouse.training --config train.json`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from pathlib import Path

from brewhouse import offline

offline.silence()

from brewhouse.errors import BrewhouseError  # noqa: E402 - telemetry is off before anything loads
from brewhouse.processes import die_with_parent  # noqa: E402


def main() -> int:
    """Train; return the exit code: 0 done, 75 stopped by a signal and resumable, else an error."""
    parser = argparse.ArgumentParser(prog="brewhouse.training", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="JSON file, see TrainConfig")
    arguments = parser.parse_args()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent(signal.SIGKILL)
    from brewhouse.training.agent import RETRY_EXIT_CODE
    from brewhouse.training.config import TrainConfig
    from brewhouse.training.engine import Preempted, Trainer
    from brewhouse.training.setup import leave_distributed

    # DeepSpeed calls collectives by their old names, at every step.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    try:
        Trainer(TrainConfig.read(arguments.config)).run()
    except Preempted:
        print("train: stopped by a signal, checkpoint written", file=sys.stderr, flush=True)
        leave_distributed()
        return RETRY_EXIT_CODE
    except BrewhouseError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    leave_distributed()
    return 0


if __name__ == "__main__":
    code = main()
    # All is written, and the group has been left. What remains are threads of gloo and DeepSpeed,
    # which now and then abort a process that unwinds around them.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

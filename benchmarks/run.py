"""`make bench`: every benchmark in turn, one table at the end, one JSON file each.

Names of some of them may be given: `python benchmarks/run.py scoring training`.
"""

from __future__ import annotations

import sys
from importlib import import_module

import common

ALL = (
    *("scoring", "training", "verbalizer", "timelines", "evidence", "drift", "drift_volume"),
    *("verbalize_scale", "gpu.scoring", "gpu.training", "gpu.engine", "gpu.mask"),
)


def main() -> None:
    """Run the chosen benchmarks."""
    chosen = sys.argv[1:] or list(ALL)
    unknown = sorted(set(chosen) - set(ALL))
    if unknown:
        sys.exit(f"unknown benchmark {', '.join(unknown)}; choose from {', '.join(ALL)}")
    found = []
    for name in chosen:
        module, _, part = name.partition(".")
        found += common.kept(
            name.replace(".", "_"), import_module(module).run(*filter(None, [part]))
        )
    print("\nAll together: how many times better ours is.")
    common.header()
    common.show(found)


if __name__ == "__main__":
    main()

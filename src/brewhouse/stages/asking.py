"""A task that a model was never trained on: one YAML file -> prompts, scores, results."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from brewhouse.domains.loader import domain_path, load_domain
from brewhouse.errors import ConfigError
from brewhouse.evaluation.results import Results
from brewhouse.files import atomic_dir
from brewhouse.model.shipped import locate
from brewhouse.stages import evaluating, verbalizing
from brewhouse.stages.common import tell
from brewhouse.stages.variant import Variant
from brewhouse.tasks.suite import load_suite


def run(
    task_file: Path,
    *,
    domain: str,
    model: str,
    snapshot: Path,
    features: Path,
    out: Path,
    oracle: Path | None = None,
    max_test_sessions: int = 6000,
    seed: int = 7,
) -> Results:
    """Ask a model the tasks of one file, and nothing else.

    Args:
        task_file: YAML as in a domain's `tasks/`.
        domain: Built-in name or folder whose surfaces the tasks are about.
        model: Folder of an exported model, or the name of a shipped one.
        snapshot: Items, profiles and labels.
        features: Feature folder of that snapshot.
        out: Folder for shards, results.json and report.html.
        oracle: Folder of a simulation's truth, if there is one.
        max_test_sessions: Test sessions asked about.
        seed: Of the resamples.

    Raises:
        ConfigError: The file has mistakes, with line and field.
        LeakError: A T2 task or its surface was trained on.
    """
    if not task_file.is_file():
        msg = f"{task_file}: no such file; give a YAML file of tasks"
        raise ConfigError(msg)
    with tempfile.TemporaryDirectory(prefix="brewhouse-task-") as scratch:
        # The same domain with one file of tasks: what every step already knows how to read.
        own = Path(scratch) / "domain"
        (own / "tasks").mkdir(parents=True)
        shutil.copy(domain_path(domain) / "domain.yaml", own)
        shutil.copy(task_file, own / "tasks" / f"{task_file.stem}.yaml")
        suite = load_suite(load_domain(str(own)))
        tell(
            f"{len(suite.tasks)} tasks of {task_file.name}: {', '.join(t.key for t in suite.tasks)}"
        )
        with atomic_dir(out) as folder:
            verbalizing.run(
                domain=str(own),
                snapshot=snapshot,
                features=features,
                train_end="",
                shards_out=folder / "shards",
                model=model,
                max_test_sessions=max_test_sessions,
                variant=Variant(training=False),
            )
            return evaluating.run(
                domain=str(own),
                shards=folder / "shards",
                model=Path(locate(model)),
                baselines=None,
                oracle=oracle or folder / "none",
                results_out=folder / "results.json",
                report_out=folder / "report.html",
                seed=seed,
            )

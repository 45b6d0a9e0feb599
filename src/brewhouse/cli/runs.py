"""`brewhouse run`, `demo`, `train` and `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from brewhouse.cli.console import emit, number, table
from brewhouse.cli.data import Domain, Json

Size = Annotated[
    str | None,
    typer.Option(
        help="micro, tiny or small from scratch; linkedin-tiny, a model folder or a hub id to tune"
    ),
]
Tokens = Annotated[int | None, typer.Option(help="Token budget of fine-tuning")]
Processes = Annotated[int, typer.Option(min=1, help="Training processes")]


def run(
    domain: Domain,
    out: Annotated[Path, typer.Option(help="Run folder; the same folder again resumes")],
    source: Annotated[str, typer.Option(help="Folder with the domain's files")] = "",
    preset: Annotated[str, typer.Option(help="Simulate a world: tiny, demo, bench")] = "",
    train_end: Annotated[str, typer.Option(help="End of training, YYYY-MM-DD")] = "",
    until: Annotated[
        str, typer.Option(help="Leave out what the log learned later, ISO 8601; nothing if empty")
    ] = "",
    seed: Annotated[int, typer.Option(help="Seed of everything random")] = 7,
    size: Size = None,
    train_tokens: Tokens = None,
    processes: Processes = 2,
    policy: Annotated[str, typer.Option(help="Gate policy: a name or a YAML file")] = "",
    champion: Annotated[
        str,
        typer.Option(
            help="results.json to compare with, or none; the run folder's champion if empty"
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Run the whole pipeline on this machine, from raw tables to a registered candidate."""
    from brewhouse.data.splits import parse_day
    from brewhouse.domains.loader import BUILT_IN, load_domain
    from brewhouse.errors import ConfigError
    from brewhouse.evaluation.results import Results
    from brewhouse.files import write_json
    from brewhouse.gates.policy import load_policy
    from brewhouse.platform.pipelines import LocalRun, run_local
    from brewhouse.platform.tracking import local_uri
    from brewhouse.release.retraining import ARGUMENTS
    from brewhouse.release.settings import whoami
    from brewhouse.stages.common import TOLD, make_split, run_key
    from brewhouse.stages.gating import NO_CHAMPION
    from brewhouse.stages.plan import plan
    from brewhouse.tasks.suite import load_suite

    folder = load_domain(domain)
    load_suite(folder)
    if until:
        parse_day(until)
    if train_end:
        make_split(folder.domain, train_end)
    out = out.resolve()
    arguments = plan(preset, size=size, train_tokens=train_tokens) | {
        "domain": domain if domain in BUILT_IN else str(folder.path.resolve()),
        "source": str(Path(source).resolve()) if source else "",
        "preset": preset,
        "train_end": train_end,
        "until": until,
        "seed": seed,
        "processes": processes,
        "champion": champion if champion in ("", NO_CHAMPION) else str(Path(champion).resolve()),
        "workspace": str(out / "training"),
        "tracking_uri": local_uri(out),
        "model_store": str(out / "models"),
        "home": str(out),
        "author": whoami(),
    }
    if folder.domain.release is None:
        msg = (
            f"domain {folder.domain.name} says nothing of owner, intended_use and limits; add "
            "`release:` to its domain.yaml, for no model is registered without it"
        )
        raise ConfigError(msg)
    if policy:
        arguments["policy"] = str(Path(policy).resolve()) if Path(policy).exists() else policy
    load_policy(arguments["policy"])
    if champion not in ("", NO_CHAMPION):
        Results.read(Path(champion))
    named = [Path(p).resolve() for p in (source, champion, policy) if p and Path(p).exists()]
    key = run_key(arguments, [*named, folder.path])
    write_json(out / ARGUMENTS, arguments)
    run_local(
        "train_and_evaluate",
        arguments | {"publish_to": str(_evidence_folder(out, key))},
        LocalRun(out=out, cache_key=key),
        marker=TOLD,
    )
    _summarise(out, as_json)


def _evidence_folder(out: Path, key: str) -> Path:
    """Evidence of runs with other arguments or other data stays apart; `evidence` is the last."""
    folder = out / "evidence-of" / key
    folder.mkdir(parents=True, exist_ok=True)
    link = out / "evidence"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.relative_to(out))
    return folder


def demo(
    out: Annotated[Path, typer.Option(help="Run folder")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of the world")] = 7,
    size: Size = None,
    as_json: Json = False,
) -> None:
    """Run the main job on a simulated professional network with embedded defaults.

    Tunes the shipped model linkedin-tiny; `--size tiny` trains from scratch.
    """
    run(domain="linkedin", out=out, preset="demo", seed=seed, size=size, as_json=as_json)


def train(
    shards: Annotated[Path, typer.Option(help="Token shards written by the verbalize step")],
    out: Annotated[Path, typer.Option(help="Model folder to write")],
    size: Size = None,
    train_tokens: Tokens = None,
    processes: Processes = 2,
    launcher: Annotated[
        str, typer.Option(help="local, or trainer for a TrainJob of Kubeflow Trainer")
    ] = "local",
    cluster: Annotated[
        Path | None, typer.Option(help="YAML file with where and how large the TrainJob is")
    ] = None,
    options: Annotated[
        Path | None, typer.Option(help="YAML file with training options, fields of TrainConfig")
    ] = None,
    workspace: Annotated[
        str, typer.Option(help="Folder for checkpoints; where the cluster's claim is mounted here")
    ] = "",
    run_id: Annotated[str, typer.Option(help="Names the TrainJob; again adopts it")] = "",
    dry_run: Annotated[
        bool, typer.Option(help="Print the TrainJob and what it will need, and stop")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a ranker on token shards; start again to resume from the newest checkpoint."""
    from brewhouse.domains.loader import read_yaml
    from brewhouse.files import refuse_foreign
    from brewhouse.stages import training
    from brewhouse.stages.plan import plan

    given: dict[str, Any] = {
        "shards": shards,
        "workspace": workspace or str(out.parent / "training"),
        "options": plan("", size=size, train_tokens=train_tokens)["train_options"]
        | (read_yaml(options)[0] if options else {}),
        "processes": processes,
        "launcher": launcher,
        "cluster": read_yaml(cluster)[0] if cluster else None,
        "run_id": run_id,
    }
    if dry_run:
        planned = training.prepare(**given)
        emit(
            {"job": planned.job, "estimate": planned.estimate},
            as_json,
            lambda: typer.echo(_plan_text(planned)),
        )
        return
    refuse_foreign(out, "training.json")
    training.run(model_out=out, **given)
    emit({"model": str(out)}, as_json, lambda: typer.echo(str(out)))


def _plan_text(planned: Any) -> str:
    import yaml

    if planned.job is None:
        return "\n".join(
            f"{name}: {value}" for name, value in planned.config.model_dump(mode="json").items()
        )
    told = "".join(f"# {line}\n" for line in planned.told)
    return told + str(yaml.safe_dump(planned.job, sort_keys=False))


def pretrain(
    recipe: Annotated[str, typer.Argument(help="Recipe that comes with the project")],
    work: Annotated[Path, typer.Option(help="Folder for data and checkpoints; again resumes")] = (
        Path("runs/pretrain")
    ),
    out: Annotated[Path | None, typer.Option(help="Model folder; models/RECIPE if empty")] = None,
    as_json: Json = False,
) -> None:
    """Rebuild a model that ships with the project, with the figures of its card."""
    from brewhouse.files import refuse_foreign
    from brewhouse.stages import pretraining

    target = out or Path("models") / recipe
    loaded = pretraining.load_recipe(recipe)
    refuse_foreign(target, "training.json")
    results = pretraining.run(loaded, work=work / recipe, out=target)
    emit(results.model_dump(mode="json"), as_json, lambda: show_tasks(results))


def baselines(
    domain: Domain,
    snapshot: Annotated[Path, typer.Option(help="Snapshot folder")],
    features: Annotated[Path, typer.Option(help="Feature folder")],
    shards: Annotated[Path, typer.Option(help="Token shards: they say which rows are tested")],
    out: Annotated[Path, typer.Option(help="Folder for scores.parquet and baselines.json")],
    only: Annotated[str, typer.Option(help="Names separated by commas; all if empty")] = "",
    seed: Annotated[int, typer.Option(help="Seed of everything random")] = 7,
    as_json: Json = False,
) -> None:
    """Train the conventional models that the ranker is measured against; score the test rows."""
    from brewhouse.files import refuse_foreign
    from brewhouse.stages import baselines as step

    refuse_foreign(out, step.RECORD)
    record = step.run(
        domain=domain,
        snapshot=snapshot,
        features=features,
        shards=shards,
        baselines_out=out,
        seed=seed,
        scorers=[name.strip() for name in only.split(",")] if only else None,
    )
    emit(record, as_json, lambda: _baselines_table(record))


def _baselines_table(record: dict[str, Any]) -> None:
    names = list(record["models"])
    rows = [
        [task, *(number(models.get(name, {}).get("test_auc")) for name in names)]
        for task, models in record["tasks"].items()
    ]
    rows.append(["seconds", *(number(record["models"][n]["seconds"], 1) for n in names)])
    title = f"AUC on the test rows; {record['production']} stands in for production"
    table(title, ["task", *names], rows)


def evaluate(
    domain: Domain,
    shards: Annotated[Path, typer.Option(help="Token shards with test trees")],
    model: Annotated[Path, typer.Option(help="Model folder")],
    baselines: Annotated[Path, typer.Option(help="Folder of baseline scores")],
    out: Annotated[Path, typer.Option(help="Folder for results.json and report.html")],
    oracle: Annotated[Path, typer.Option(help="Folder of a simulation's truth")] = Path("oracle"),
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap")] = 7,
    scoring: Annotated[
        Path | None, typer.Option(help="YAML file with how trees are scored, such as engine: ray")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score test rows, judge every task, write results and report."""
    from brewhouse.domains.loader import read_yaml
    from brewhouse.stages import evaluating
    from brewhouse.stages.scoring import ScoringPlan

    results = evaluating.run(
        domain=domain,
        shards=shards,
        model=model,
        baselines=baselines,
        oracle=oracle,
        seed=seed,
        scoring=ScoringPlan.of(read_yaml(scoring)[0] if scoring else None),
        results_out=out / "results.json",
        report_out=out / "report.html",
    )
    emit(results.model_dump(mode="json"), as_json, lambda: show_tasks(results))


def _summarise(out: Path, as_json: bool) -> None:
    """The end of a run: one row a task, the verdict, the registered version, the report."""
    from brewhouse.evaluation.results import Results
    from brewhouse.files import read_json

    evidence = out / "evidence"
    results = Results.read(evidence / "results.json")
    verdict = read_json(evidence / "verdict.json")
    registered = evidence / "registration.json"
    value: dict[str, Any] = {
        "verdict": verdict["outcome"],
        "rules": verdict["rules"],
        "registered": read_json(registered) if registered.exists() else None,
        "report": str(evidence / "report.html"),
        "results": str(evidence / "results.json"),
        "mean_auc": {
            s: results.mean_auc(s, "T1")
            for s in sorted({s for task in results.tasks for s in task.scorers} | {"oracle"})
        },
        "production": results.production,
    }
    emit(value, as_json, lambda: _show(results, value))


def _show(results: Any, value: dict[str, Any]) -> None:
    show_tasks(results)
    typer.echo("")
    for rule in value["rules"]:
        typer.echo(f"  {rule['outcome']:<12} {rule['reason']}")
    typer.echo(f"verdict     {value['verdict']}")
    registered = value["registered"]
    typer.echo(
        "registered  "
        + (
            f"{registered['name']} version {registered['version']}, {registered['state']}"
            if registered
            else "nothing"
        )
    )
    if registered:
        typer.echo(f"dossier     {registered['dossier']}/index.html")
    typer.echo(f"report      {value['report']}")


def show_tasks(results: Any) -> None:
    """One row a task: AUC of the ranker with its interval, and of others."""
    known = {s for task in results.tasks for s in task.scorers}
    columns = ("popularity", "lightgbm", "dcn_v2", "din", "sequence", "oracle")
    scorers = [s for s in columns if s in known or s == results.production]
    rows = []
    for task in results.tasks:
        auc = task.scorers["ranker"].auc
        rows.append(
            [
                task.name,
                task.tier,
                f"{task.n:,}",
                number(task.base_rate),
                number(auc.value),
                f"{number(auc.low)}-{number(auc.high)}",
                *(
                    number(task.scorers[s].auc.value if s in task.scorers else None)
                    for s in scorers
                ),
            ]
        )
    for tier in ("T1", "T2"):
        if any(t.tier == tier for t in results.tasks):
            rows.append(
                [
                    f"mean {tier}",
                    tier,
                    "",
                    "",
                    number(results.mean_auc("ranker", tier)),
                    "",
                    *(number(results.mean_auc(s, tier)) for s in scorers),
                ]
            )
    table(
        f"{results.domain}: AUC on rows after {results.split['train_end'][:10]} + "
        f"{results.split['gap_days']:g} days",
        ["task", "tier", "n", "base rate", "ranker", "95 % interval", *scorers],
        rows,
        left=2,
    )

"""Steps of studies: one world, its prompts and baselines; then each training, each evaluation once.

All of them write below one folder and find there what an earlier start has finished.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from brewhouse.errors import ConfigError
from brewhouse.evaluation.results import Results
from brewhouse.files import atomic_dir, read_json, sha256_json, write_json
from brewhouse.model.shipped import locate
from brewhouse.prompts.shards_manifest import ShardsManifest
from brewhouse.stages import baselines, evaluating, features, importing, training, verbalizing
from brewhouse.stages.common import tell
from brewhouse.stages.variant import Variant
from brewhouse.studies.findings import conclude
from brewhouse.studies.plan import Evaluation, StudyPreset, Training, check_studies, load_preset
from brewhouse.studies.report import write_page, write_table

PRODUCTION = ("popularity", "lightgbm")


def prepare(preset: str, work: Path) -> None:
    """World, features, prompts of training, and baselines with fresh and with frozen history."""
    p = _keep(preset, work)
    if not (work / "snapshot").exists():
        importing.run(
            domain=p.domain,
            source="",
            preset=p.world,
            seed=p.seed,
            snapshot_out=work / "snapshot",
            oracle_out=work / "oracle",
        )
    if not (work / "features" / features.ABOUT).exists():
        features.run(domain=p.domain, snapshot=work / "snapshot", features_out=work / "features")
    if not (work / "shards" / ShardsManifest.FILE).exists():
        # Training ends so early that the farthest horizon still fits.
        variant = Variant(probes=False, horizons_weeks=p.horizons_weeks)
        _verbalize(p, work, work / "shards", model=p.base, variant=variant)
    for name, frozen in (("baselines", False), ("baselines-frozen", True)):
        if not (work / name).exists():
            baselines.run(
                domain=p.domain,
                snapshot=work / "snapshot",
                features=work / "features",
                shards=work / "shards",
                baselines_out=work / name,
                seed=p.seed,
                scorers=list(PRODUCTION),
                frozen=frozen,
            )


def train(preset: str, work: Path, point: dict[str, Any]) -> Path:
    """Train one model, or take the base as it is."""
    p, training_ = _keep(preset, work), Training.model_validate(point)
    out = work / "trainings" / training_.name
    if out.exists():
        tell(f"training {training_.name} is there already")
        return out
    if not training_.options:
        with atomic_dir(out) as scratch:
            shutil.copytree(locate(p.base), scratch, dirs_exist_ok=True)
        return out
    return training.run(
        shards=work / "shards",
        model_out=out,
        workspace=str(work / "checkpoints" / training_.name),
        options=training_.options,
        processes=p.processes,
    )


def evaluate(preset: str, work: Path, point: dict[str, Any]) -> Path:
    """Ask one model in one way."""
    p, asked = _keep(preset, work), Evaluation.model_validate(point)
    out = work / "evaluations" / asked.name
    if (out / "results.json").exists():
        tell(f"evaluation {asked.name} is there already")
        return out
    # Always all horizons: which sessions are asked about hangs on them, and baselines scored those.
    only_asks = {"training": False, "probes": False}
    variant = Variant.parse({"horizons_weeks": p.horizons_weeks, **asked.variant, **only_asks})
    shards = work / "asked" / sha256_json(variant.model_dump(mode="json"))[:12]
    model = work / "trainings" / asked.training
    if not (shards / ShardsManifest.FILE).exists():
        _verbalize(p, work, shards, model=str(model), variant=variant)
    evaluating.run(
        domain=p.domain,
        shards=shards,
        model=model,
        baselines=work / ("baselines-frozen" if variant.frozen else "baselines"),
        oracle=work / "oracle",
        results_out=out / "results.json",
        report_out=out / "report.html",
        seed=p.seed,
        resamples=p.resamples,
        caps=[int(cap) for cap in asked.caps],
    )
    tell(f"evaluation {asked.name} done")
    return out


def report(preset: str, work: Path, studies: list[str]) -> list[dict[str, Any]]:
    """Draw conclusions from the evaluations: studies.json, studies.html and studies.md."""
    p = _keep(preset, work)
    results = {
        path.parent.name: Results.read(path)
        for path in sorted((work / "evaluations").glob("*/results.json"))
    }
    findings = [conclude(study, p, results) for study in check_studies(studies)]
    value = [finding.to_json() for finding in findings]
    write_json(work / "studies.json", {"preset": p.name, "findings": value})
    write_page(findings, p, work / "studies.html")
    write_table(findings, p, work / "studies.md")
    for finding in findings:
        tell(f"{finding.study}: {finding.sentence}")
    return value


def _verbalize(p: StudyPreset, work: Path, out: Path, *, model: str, variant: Variant) -> None:
    end = ""
    if not variant.training:
        end = str(ShardsManifest.read(work / "shards").split["train_end"])[:10]
    verbalizing.run(
        domain=p.domain,
        snapshot=work / "snapshot",
        features=work / "features",
        train_end=end,
        shards_out=out,
        model=model,
        max_test_sessions=p.max_test_sessions,
        variant=variant,
    )


def _keep(preset: str, work: Path) -> StudyPreset:
    """Read the preset, and refuse a folder in which another one was begun."""
    p = load_preset(preset)
    path, value = work / "preset.json", p.model_dump(mode="json")
    if not path.exists():
        write_json(path, value)
    elif read_json(path) != value:
        msg = (
            f"{work} holds studies of another preset than {p.name} as it reads now; choose another "
            "folder, or remove this one"
        )
        raise ConfigError(msg)
    return p

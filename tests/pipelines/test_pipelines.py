"""The compiled pipeline is the golden file, loads with kfp, and says everything a cluster needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from brewhouse.pipelines.secrets import STORE
from kfp import components

from brewhouse.errors import ConfigError
from brewhouse.platform.pipelines import compile_pipeline, load_pipeline
from brewhouse.platform.trainjob import ClusterSpec
from tests.conftest import ROOT

GOLDEN = ROOT / "pipelines" / "train_and_evaluate" / "train_and_evaluate.yaml"
PIPELINES = ("train_and_evaluate", "studies", "promote", "monitor")
STEPS = {
    "preflight",
    "import-data",
    "validate-data",
    "build-features",
    "publish-features",
    "verbalize",
    "train-ranker",
    "train-baselines",
    "evaluate",
    "gate",
    "register-candidate",
    "report-status",
}


@pytest.fixture(scope="module")
def spec() -> dict:
    return next(yaml.safe_load_all(GOLDEN.read_text()))


def test_compiles_to_the_golden_file(tmp_path: Path) -> None:
    fresh = compile_pipeline("train_and_evaluate", tmp_path / "p.yaml")
    assert fresh.read_text() == GOLDEN.read_text(), "run `make compile` and review the difference"


def test_loads_with_kfp() -> None:
    loaded = components.load_component_from_file(str(GOLDEN))
    assert loaded.name == "train-and-evaluate"
    assert {"domain", "source", "preset", "policy", "tracking_uri"} <= set(
        loaded.pipeline_spec.root.input_definitions.parameters
    )


def test_images_and_resources_of_every_step(spec: dict) -> None:
    executors = spec["deploymentSpec"]["executors"]
    assert {name.removeprefix("exec-") for name in executors} == STEPS
    for name, executor in executors.items():
        container = executor["container"]
        assert container["image"].startswith("registry.example.com/brewhouse/")
        assert {"resourceCpuLimit", "resourceMemoryLimit"} <= set(container["resources"]), name
        # Images hold the package: nothing is installed when a step starts.
        assert "pip install" not in " ".join(container["command"])


def test_inputs_of_every_step(spec: dict) -> None:
    for name in STEPS - {"report-status"}:
        definition = spec["components"][f"comp-{name}"]
        inputs = definition["inputDefinitions"]
        assert inputs.get("parameters") or inputs.get("artifacts")
    training = spec["components"]["comp-train-ranker"]["inputDefinitions"]
    assert set(training["artifacts"]) == {"shards"}
    assert "options" in training["parameters"]


def test_nothing_trains_on_unvalidated_data(spec: dict) -> None:
    body = next(c for n, c in spec["components"].items() if n.startswith("comp-exit-handler"))
    tasks = body["dag"]["tasks"]

    def upstream(name: str) -> set[str]:
        direct = set(tasks[name].get("dependentTasks", []))
        return direct.union(*(upstream(d) for d in direct)) if direct else set()

    assert "validate-data" in upstream("train-ranker")
    assert "validate-data" in upstream("train-baselines")


def test_training_and_its_job_share_the_claim() -> None:
    platform = list(yaml.safe_load_all(GOLDEN.read_text()))[1]["platforms"]["kubernetes"]
    executors = platform["deploymentSpec"]["executors"]
    mounted = {n for n, e in executors.items() if "pvcMount" in e}
    # Folders among the arguments lie there: each step may be told to publish its evidence to one.
    assert mounted == set(executors)
    watching = ROOT / "pipelines" / "monitor" / "monitor.yaml"
    platform = list(yaml.safe_load_all(watching.read_text()))[1]["platforms"]["kubernetes"]
    assert all("pvcMount" in e for e in platform["deploymentSpec"]["executors"].values())
    mount = executors["exec-train-ranker"]["pvcMount"][0]
    assert mount["mountPath"] == ClusterSpec(namespace="x").mount
    assert mount["pvcNameParameter"]["componentInputParameter"].endswith("claim")


@pytest.mark.parametrize(
    ("name", "secret", "steps"),
    [
        ("train_and_evaluate", "brewhouse-release", {"preflight", "gate", "register-candidate"}),
        (
            "train_and_evaluate",
            "brewhouse-feast",
            {"preflight", "build-features", "publish-features", "verbalize", "train-baselines"},
        ),
        ("promote", "brewhouse-release", {"promote"}),
        ("promote", "brewhouse-store", {"promote"}),
        ("monitor", "brewhouse-store", {"monitor-drift", "report-status"}),
        ("monitor", "brewhouse-release", {"monitor-drift"}),
    ],
)
def test_decisions_keys_and_features_come_from_secrets(
    name: str, secret: str, steps: set[str]
) -> None:
    path = ROOT / "pipelines" / name / f"{name}.yaml"
    platform = list(yaml.safe_load_all(path.read_text()))[1]["platforms"]["kubernetes"]
    executors = platform["deploymentSpec"]["executors"]
    given = {
        n.removeprefix("exec-"): e
        for n, e in executors.items()
        if any(_secret(s) == secret for s in e.get("secretAsEnv", ()))
    }
    assert set(given) == steps
    for executor in given.values():
        assert all(s["optional"] for s in executor["secretAsEnv"])
        if secret == "brewhouse-release":
            (volume,) = executor["secretAsVolume"]
            assert (volume["mountPath"], volume["optional"]) == ("/etc/brewhouse/keys", True)


def test_every_step_of_a_run_may_hold_the_keys_of_a_store() -> None:
    """All of them may copy evidence to `publish_to`."""
    path = ROOT / "pipelines" / "train_and_evaluate" / "train_and_evaluate.yaml"
    platform = list(yaml.safe_load_all(path.read_text()))[1]["platforms"]["kubernetes"]
    for name, executor in platform["deploymentSpec"]["executors"].items():
        (given,) = (s for s in executor["secretAsEnv"] if _secret(s) == "brewhouse-store")
        assert given["optional"] is True, name
        assert {k["envVar"] for k in given["keyToEnv"]} == set(STORE)


def _secret(given: dict) -> str:
    return str(given["secretNameParameter"]["runtimeValue"]["constant"])


def test_only_steps_that_need_the_newest_state_are_never_cached(spec: dict) -> None:
    body = next(c for n, c in spec["components"].items() if n.startswith("comp-exit-handler"))
    cached = {
        n for n, t in body["dag"]["tasks"].items() if t.get("cachingOptions", {}).get("enableCache")
    }
    assert STEPS - cached == {"preflight", "publish-features", "gate", "report-status"}


def test_nothing_is_computed_before_the_preflight(spec: dict) -> None:
    body = next(c for n, c in spec["components"].items() if n.startswith("comp-exit-handler"))
    assert body["dag"]["tasks"]["import-data"]["dependentTasks"] == ["preflight"]


@pytest.mark.parametrize("name", PIPELINES)
def test_every_step_is_nobody_s_root_and_somebody_s_cost(name: str) -> None:
    path = ROOT / "pipelines" / name / f"{name}.yaml"
    spec, platform = yaml.safe_load_all(path.read_text())
    told = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(told) == set(spec["deploymentSpec"]["executors"])
    for executor in told.values():
        context = executor["securityContext"]
        assert (context["runAsUser"], context["runAsNonRoot"]) == ("10001", True)
        labels = executor["podMetadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "brewhouse"
        assert labels["brewhouse.dev/cost-center"] == "ranking"
        assert labels["brewhouse.dev/pipeline"] == name.replace("_", "-")


def test_no_secret_is_a_parameter(spec: dict) -> None:
    names = set(spec["root"]["inputDefinitions"]["parameters"])
    assert not {n for n in names if any(w in n for w in ("token", "secret", "password", "key"))}


def test_unknown_pipeline() -> None:
    with pytest.raises(ConfigError, match="unknown pipeline 'x'; choose one of train_and_evaluate"):
        load_pipeline("x")

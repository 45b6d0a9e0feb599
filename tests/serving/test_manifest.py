"""The InferenceService that serves a version."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from brewhouse.cli.main import app
from brewhouse.errors import ConfigError
from brewhouse.model.shipped import locate
from brewhouse.prompts.shards_manifest import ShardsManifest
from brewhouse.release.serving import ServingSpec, inference_service
from tests.conftest import ROOT, SHARED
from tests.release.conftest import House, house  # noqa: F401

STORAGE = "s3://models/ranker/VERSION/model"
ANSWERS = max(
    len(a) for a in ShardsManifest.read_file(Path(locate("linkedin-tiny")) / "prompts.json").answers
)


def test_the_manifest_is_what_the_command_prints() -> None:
    found = CliRunner().invoke(
        app, ["inference-service", "--model", "linkedin-tiny", "--storage", STORAGE]
    )
    assert found.exit_code == 0, found.output
    assert found.stdout == (ROOT / "manifests/components/serving/inferenceservice.yaml").read_text()
    value = yaml.safe_load(found.stdout)
    arguments = value["spec"]["predictor"]["model"]["args"]
    assert f"--max-logprobs={ANSWERS}" in arguments
    assert "--logprobs-mode=processed_logprobs" in arguments


@pytest.mark.skipif(not (SHARED / "crds").is_dir(), reason="schemas ../shared/crds are absent")
@pytest.mark.parametrize(
    "change", [{}, {"gpus": 0}, {"min_replicas": 0, "args": ["--enforce-eager"]}]
)
def test_kserve_takes_it(change: dict[str, object]) -> None:
    from tests.kube.schema import crds

    spec = ServingSpec.model_validate(change)
    value = inference_service(
        spec, storage=STORAGE, version="ranker version 3", digest="sha256:0", answers=7
    )
    crds()[value["apiVersion"], value["kind"]].admit(value)
    limits = value["spec"]["predictor"]["model"]["resources"]["limits"]
    assert ("nvidia.com/gpu" in limits) is (spec.gpus > 0)


def test_where_kserve_cannot_fetch_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot fetch /models/1/model; keep versions at one of"):
        inference_service(
            ServingSpec(), storage="/models/1/model", version="", digest="", answers=2
        )


def test_the_champion_is_named_and_its_weights_checked(
    house: House,  # noqa: F811
) -> None:
    version = house.register(1)
    release = house.release()
    release.registry.set_alias("ranker", "champion", "1")
    command = ["inference-service", "--home", str(house.home), "--storage", STORAGE]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0, found.output
    notes = yaml.safe_load(found.stdout)["metadata"]["annotations"]
    assert notes["brewhouse.dev/version"] == "ranker version 1"
    assert notes["brewhouse.dev/weights"] == version.tags["brewhouse.model"]
    weights = Path(version.source) / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    found = CliRunner().invoke(app, command)
    assert "version 1 was registered with" in str(found.exception)

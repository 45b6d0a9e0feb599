"""A release: nothing in it names an image but by digest, and it says what is inside."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.conftest import ROOT
from tests.kube.policy import findings
from tools import release, sbom
from tools.release import Plan, ReleaseError

STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0
"""
PACKAGES = {
    "alpha-1.0": "Name: Alpha_Pack\nVersion: 1.0\nLicense-Expression: MIT OR Apache-2.0\n",
    "beta-2.1": "Name: beta\nVersion: 2.1\nClassifier: License :: OSI Approved :: BSD License\n",
    "gamma-3": "Name: gamma\nVersion: 3\nLicense: Apache-2.0\n",
    "delta-4": "Name: delta\nVersion: 4\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root of an image with four packages of Python and one of Debian."""
    found = tmp_path / "root"
    for name, text in PACKAGES.items():
        path = found / "opt/venv/lib/python3.11/site-packages" / f"{name}.dist-info" / "METADATA"
        path.parent.mkdir(parents=True)
        path.write_text(f"Metadata-Version: 2.4\n{text}\nA description\n")
    status = found / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text(STATUS)
    return found


def test_a_bill_holds_every_package_and_is_valid(root: Path, tmp_path: Path) -> None:
    digest = "sha256:" + "ab" * 32
    assert sbom.write(root, tmp_path / "out", name="steps", version="1.2.3", digest=digest) == []
    text = (tmp_path / "out/sbom-steps.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    value = json.loads(text)
    assert value["metadata"]["component"]["name"] == "brewhouse-steps"
    assert value["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert {c["purl"] for c in value["components"]} == {
        "pkg:pypi/alpha-pack@1.0",
        "pkg:pypi/beta@2.1",
        "pkg:pypi/gamma@3",
        "pkg:pypi/delta@4",
        "pkg:deb/debian/libc6@2.36-9?arch=amd64",
    }
    page = (tmp_path / "out/licences-steps.md").read_text()
    for row in ("Alpha_Pack | 1.0 | MIT OR Apache-2.0", "beta | 2.1 | BSD-3-Clause"):
        assert f"| {row} |" in page
    assert "| delta | 4 | not declared |" in page


@pytest.mark.parametrize("told", ["License-Expression: AGPL-3.0-only", "License: Non-commercial"])
def test_a_licence_that_may_not_ship_is_named(root: Path, tmp_path: Path, told: str) -> None:
    path = next(root.rglob("delta-4.dist-info/METADATA"))
    path.write_text(f"Metadata-Version: 2.4\nName: delta\nVersion: 4\n{told}\n\n")
    (bad,) = sbom.write(root, tmp_path / "out", name="steps", version="1")
    assert bad.startswith("delta 4: ")


@pytest.mark.slow
@pytest.mark.image
def test_a_release_is_whole_and_by_digest(root: Path, tmp_path: Path) -> None:
    """With a small image in place of the real one, which takes minutes to compress."""
    if shutil.which("podman") is None or os.geteuid():
        pytest.skip("no image can be made here: needs root and podman")
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        tar.add(root, arcname=".")
    name = "localhost/brewhouse/small:test"
    subprocess.run(["podman", "import", "--quiet", str(tmp_path / "root.tar"), name], check=True)
    plan = Plan(
        registry="registry.test/ml",
        out=tmp_path / "dist" / "0",
        images={"steps": name},
        push=False,
        sign=False,
        partial=True,
    )
    try:
        assert release.build(plan, dirty=True) == 0
    finally:
        subprocess.run(["podman", "rmi", "--force", name], check=True, capture_output=True)
    record = json.loads((plan.out / "release.json").read_text())
    reference = record["images"]["steps"]
    assert re.fullmatch(r"registry\.test/ml/steps@sha256:[0-9a-f]{64}", reference)
    # The digest is that of the layout, which a registry keeps.
    index = json.loads((plan.out / "images/steps/index.json").read_text())
    assert index["manifests"][0]["digest"] == reference.partition("@")[2]
    assert len(list(plan.out.glob("brewhouse-*.whl"))) == 1
    sums = subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=plan.out, check=False
    )
    assert sums.returncode == 0
    monitor = yaml.safe_load_all((plan.out / "pipelines/monitor.yaml").read_text())
    images = {
        e["container"]["image"] for e in next(monitor)["deploymentSpec"]["executors"].values()
    }
    assert images == {reference}
    built = subprocess.run(
        ["kubectl", "kustomize", str(plan.out / "manifests/overlays/prod")],
        capture_output=True,
        text=True,
        check=True,
    )
    objects = [o for o in yaml.safe_load_all(built.stdout) if o]
    assert reference in built.stdout
    assert not release.PLACEHOLDER.search(built.stdout)
    assert findings(objects) == []
    with pytest.raises(ReleaseError, match="is there already; a release is made once"):
        release.build(plan, dirty=True)


def test_a_tree_with_changes_is_no_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(registry="r.test", out=tmp_path / "0", images={}, push=False, sign=False)
    monkeypatch.setattr(release, "run", lambda *_, **__: "something")
    with pytest.raises(ReleaseError, match="the tree has changes"):
        release.build(plan, dirty=False)
    assert not plan.out.exists()


def test_a_family_that_is_absent_is_no_silent_gap(tmp_path: Path) -> None:
    plan = Plan(
        registry="r.test", out=tmp_path / "0", images={"steps": "x"}, push=False, sign=False
    )
    if (ROOT / "build/wheels/train").is_dir():
        pytest.skip("wheels of train are here")
    with pytest.raises(ReleaseError, match="no wheels for train: .* or pass --partial"):
        release.build(plan, dirty=True)
    assert not plan.out.exists()


def test_the_workflow_runs_what_is_here() -> None:
    """Every make target and file that the release workflow names exists."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yaml").read_text())
    text = "\n".join(
        step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]
    )
    targets = set(re.findall(r"make ([a-z-]+)", text))
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert targets
    assert targets <= known
    for path in re.findall(r"(?:tools|\.ci)/[\w./]+", text):
        assert (ROOT / path).is_file(), path
    # What runs with a token that may write is named by version.
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            assert re.search(r"@v?\d", step.get("uses", "x@1")), step

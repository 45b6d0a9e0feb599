"""Builds a release: wheel, images, bills of materials, licences, pipelines and manifests by digest.

Usage: python tools/release.py --registry registry.example.com/ml --out dist [--push]

What it writes under OUT/VERSION is what somebody installs: nothing in it names an image but by its
digest. Images go to the registry with --push, else into OCI layouts that `skopeo copy
--preserve-digests` publishes as they are. With cosign at hand and --sign, images, bills and sums
are signed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from brewhouse.components.images import FAMILIES  # noqa: E402

from brewhouse import __version__  # noqa: E402
from tools import sbom  # noqa: E402

PIPELINES = ("train_and_evaluate", "studies", "promote", "monitor")
PLACEHOLDER = re.compile(r"registry\.example\.com/brewhouse/(\w+)@sha256:0{64}")


class ReleaseError(Exception):
    """The release cannot be made; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is released, and where to.

    Attributes:
        registry: Prefix of the images' names.
        out: Folder of this version.
        images: Image of each family that is there already; built if it is absent.
        push: Whether images go to the registry.
        sign: Whether cosign signs.
        partial: Whether a family without wheels is left out; places that name it keep their
            placeholder then. Else it is an error.
    """

    registry: str
    out: Path
    images: dict[str, str]
    push: bool
    sign: bool
    partial: bool = False


def run(*command: str, env: dict[str, str] | None = None) -> str:
    """Output of a command.

    Raises:
        ReleaseError: It failed.
    """
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | (env or {}), capture_output=True, text=True, check=False
    )
    if done.returncode:
        msg = f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}"
        raise ReleaseError(msg)
    return done.stdout.strip()


def tell(line: str) -> None:
    """Progress."""
    sys.stderr.write(f"release: {line}\n")


def main() -> int:
    """Build it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--registry", required=True, help="prefix of images, HOST/PATH")
    parser.add_argument("--out", type=Path, default=Path("dist"))
    parser.add_argument("--image", action="append", default=[], help="FAMILY=IMAGE built before")
    parser.add_argument("--push", action="store_true", help="push images to the registry")
    parser.add_argument("--sign", action="store_true", help="sign by cosign")
    parser.add_argument(
        "--partial", action="store_true", help="leave out images whose wheels are not there"
    )
    parser.add_argument("--dirty", action="store_true", help="from a tree with changes")
    given = parser.parse_args()
    plan = Plan(
        registry=given.registry.rstrip("/"),
        out=given.out.resolve() / __version__,
        images=dict(pair.split("=", 1) for pair in given.image),
        push=given.push,
        sign=given.sign,
        partial=given.partial,
    )
    try:
        return build(plan, dirty=given.dirty)
    except ReleaseError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


def build(plan: Plan, *, dirty: bool) -> int:
    """All of it, into a folder that was not there.

    Raises:
        ReleaseError: A part cannot be made.
    """
    commit = run("git", "rev-parse", "HEAD")
    if not dirty and run("git", "status", "--porcelain"):
        msg = "the tree has changes; commit them, or pass --dirty for a trial"
        raise ReleaseError(msg)
    if plan.out.exists():
        msg = f"{plan.out} is there already; a release is made once: raise __version__ or remove it"
        raise ReleaseError(msg)
    if plan.sign and not shutil.which("cosign"):
        msg = "--sign needs cosign on the PATH"
        raise ReleaseError(msg)
    chosen = families(plan)
    plan.out.mkdir(parents=True)
    wheel(plan.out)
    references = {family: image(plan, family) for family in chosen}
    pipelines(plan.out, references)
    manifests(plan.out, references)
    record = {
        "version": __version__,
        "commit": commit,
        "dirty": dirty,
        "images": references,
        "pushed": plan.push,
        "signed": plan.sign,
    }
    (plan.out / "release.json").write_text(json.dumps(record, indent=1) + "\n")
    sums(plan.out)
    if plan.sign:
        sign(plan.out, references)
    tell(f"{plan.out} is whole")
    return 0


def families(plan: Plan) -> list[str]:
    """Families that are released: those named, and those whose wheels were gathered.

    Raises:
        ReleaseError: One is absent and the release is not a partial one.
    """
    found = [f for f in FAMILIES if f in plan.images or (ROOT / "build" / "wheels" / f).is_dir()]
    absent = sorted(set(FAMILIES) - set(found))
    if absent and not plan.partial:
        msg = (
            f"no wheels for {', '.join(absent)}: gather them in build/wheels (`make wheels` does "
            "it for `steps`), name an image with --image, or pass --partial"
        )
        raise ReleaseError(msg)
    for family in absent:
        tell(f"no wheels for {family}: its image is left out; what names it is not filled")
    return found


def wheel(out: Path) -> None:
    """The package."""
    tell("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), ".")
    for left in ("build/lib", *ROOT.glob("build/bdist.*")):
        shutil.rmtree(ROOT / left, ignore_errors=True)


def image(plan: Plan, family: str) -> str:
    """Build one, publish it, write what is in it; return its reference by digest."""
    name = plan.images.get(family)
    if not name:
        tell(f"image {family}")
        name = run("tools/image.sh", family).splitlines()[-1]
    target = f"{plan.registry}/{family}"
    note = plan.out / f"{family}.digest"
    if plan.push:
        tell(f"push {target}:{__version__}")
        place = f"docker://{target}:{__version__}"
    else:
        (plan.out / "images").mkdir(exist_ok=True)
        place = f"oci:{plan.out / 'images' / family}:{__version__}"
    run("podman", "push", "--quiet", "--digestfile", str(note), name, place)
    digest = note.read_text().strip()
    note.unlink()
    tell(f"bill of materials {family}")
    bad = _bill(plan, family, name, digest)
    if bad:
        msg = "packages with licences that may not be in an image:\n  " + "\n  ".join(bad)
        raise ReleaseError(msg)
    return f"{target}@{digest}"


def _bill(plan: Plan, family: str, name: str, digest: str) -> list[str]:
    """Bill and licences; packages that may not be in an image."""
    if os.geteuid():
        # Without root an image's files are seen inside podman's own user namespace alone.
        given = (
            f"--name {family} --version {__version__} --digest {digest} --out {plan.out / 'sbom'}"
        )
        inside = (
            f'root=$(podman image mount {name}) && "{sys.executable}" tools/sbom.py "$root" {given}'
        )
        run("podman", "unshare", "sh", "-c", inside)
        return []
    root = run("podman", "image", "mount", name)
    try:
        return sbom.write(
            Path(root), plan.out / "sbom", name=family, version=__version__, digest=digest
        )
    finally:
        run("podman", "image", "unmount", name)


def pipelines(out: Path, references: dict[str, str]) -> None:
    """Compiled with images by digest; steps of a family that was not built keep name and tag."""
    names = {f"BREWHOUSE_IMAGE_{family.upper()}": ref for family, ref in references.items()}
    (out / "pipelines").mkdir()
    for name in PIPELINES:
        tell(f"pipeline {name}")
        path = out / "pipelines" / f"{name}.yaml"
        brewhouse = str(Path(sys.executable).with_name("brewhouse"))
        run(brewhouse, "pipeline", "compile", name, "--out", str(path), env=names)


def manifests(out: Path, references: dict[str, str]) -> None:
    """A copy in which placeholders are images by digest."""
    tell("manifests")
    shutil.copytree(ROOT / "manifests", out / "manifests")
    for path in sorted((out / "manifests").rglob("*.yaml")):
        text = path.read_text()
        filled = PLACEHOLDER.sub(lambda m: references.get(m.group(1), m.group(0)), text)
        if filled != text:
            path.write_text(filled)


def sums(out: Path) -> None:
    """Digests of every file, as `sha256sum --check SHA256SUMS` reads them."""
    lines = []
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        digest = hashlib.sha256()
        with path.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
        lines.append(f"{digest.hexdigest()}  {path.relative_to(out).as_posix()}\n")
    (out / "SHA256SUMS").write_text("".join(lines))


def sign(out: Path, references: dict[str, str]) -> None:
    """Sign images, attest their bills, sign the sums; by the identity that cosign finds."""
    for family, reference in references.items():
        tell(f"sign {family}")
        run("cosign", "sign", "--yes", reference)
        bill = str(out / "sbom" / f"sbom-{family}.json")
        run("cosign", "attest", "--yes", "--type", "cyclonedx", "--predicate", bill, reference)
    path = str(out / "SHA256SUMS")
    run("cosign", "sign-blob", "--yes", "--bundle", f"{path}.bundle", path)


if __name__ == "__main__":
    sys.exit(main())

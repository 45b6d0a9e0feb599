"""Software bill of materials (CycloneDX) of an image, read from its files; nothing of it is run.

Usage: python tools/sbom.py ROOT --name steps --version 0.1.0 --out FOLDER, with ROOT as
`podman image mount` gives it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from license_expression import ExpressionError, get_spdx_licensing
from packageurl import PackageURL

FORBIDDEN = re.compile(r"AGPL|SSPL|BUSL|Commons-Clause|non-?commercial", re.IGNORECASE)
"""Licences that an image of ours may not carry among its Python packages."""
_NAMES = {
    "MIT License": "MIT",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "Python Software Foundation License": "PSF-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "Zope Public License": "ZPL-2.1",
    "GNU Library or Lesser General Public License (LGPL)": "LGPL-2.0-or-later",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3.0-or-later",
}
"""Trove classifiers as SPDX says them, for packages that declare no expression."""


def components(root: Path) -> Iterator[Component]:
    """Packages that an image's files declare: Python's, and Debian's.

    Args:
        root: The image's root folder.
    """
    for place in ("opt", "usr", "root"):
        for path in sorted((root / place).rglob("site-packages/*.dist-info/METADATA")):
            yield _python(path.read_text(encoding="utf-8", errors="replace"))
    status = root / "var" / "lib" / "dpkg" / "status"
    if status.is_file():
        yield from _debian(status.read_text(encoding="utf-8", errors="replace"))


def _python(text: str) -> Component:
    told = Parser().parsestr(text, headersonly=True)
    name, version = str(told["Name"]), str(told["Version"])
    normal = re.sub(r"[-_.]+", "-", name).lower()
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        bom_ref=f"pypi:{normal}@{version}",
        purl=PackageURL(type="pypi", name=normal, version=version),
        licenses=[LicenseFactory().make_from_string(licence(told))] if licence(told) else None,
    )


def licence(told: Message) -> str:
    """SPDX expression of a package's metadata; its own words where they are none."""
    expression = str(told["License-Expression"] or "")
    if expression:
        return expression
    classified = [
        line.rpartition(" :: ")[2]
        for line in told.get_all("Classifier") or []
        if line.startswith("License :: ")
    ]
    known = sorted({_NAMES[name] for name in classified if name in _NAMES})
    if known:
        return " OR ".join(known)
    words = str(told["License"] or "").strip().splitlines()
    first = words[0].strip() if words else ""
    if first in _NAMES:
        return _NAMES[first]
    try:
        found = get_spdx_licensing().parse(first, validate=True)
        return str(found) if found is not None else (classified[0] if classified else "")
    except ExpressionError:
        return (classified[0] if classified else first)[:80]


def _debian(text: str) -> Iterator[Component]:
    for block in text.split("\n\n"):
        told = Parser().parsestr(block, headersonly=True)
        if not told["Package"] or "installed" not in str(told["Status"]):
            continue
        name, version = str(told["Package"]), str(told["Version"])
        yield Component(
            name=name,
            version=version,
            type=ComponentType.LIBRARY,
            bom_ref=f"deb:{name}@{version}",
            purl=PackageURL(
                type="deb",
                namespace="debian",
                name=name,
                version=version,
                qualifiers={"arch": str(told["Architecture"])},
            ),
        )


def bill(found: list[Component], *, name: str, version: str, digest: str = "") -> Bom:
    """The bill of an image.

    Args:
        found: Its packages.
        name: Image family.
        version: Of the release.
        digest: `sha256:...` of the image.
    """
    hashes = (
        [HashType(alg=HashAlgorithm.SHA_256, content=digest.removeprefix("sha256:"))]
        if digest
        else None
    )
    image = Component(
        name=f"brewhouse-{name}",
        version=version,
        type=ComponentType.CONTAINER,
        bom_ref=f"image:{name}",
        hashes=hashes,
    )
    bom = Bom(components=found)
    bom.metadata.component = image
    bom.register_dependency(image, found)
    return bom


def licences(found: list[Component]) -> list[tuple[str, str, str]]:
    """Name, version and licence of the Python packages."""
    return sorted(
        (
            c.name,
            str(c.version),
            " ".join(
                str(getattr(x, "value", None) or getattr(x, "id", None) or getattr(x, "name", ""))
                for x in c.licenses
            ),
        )
        for c in found
        if c.purl and c.purl.type == "pypi"
    )


def table(found: list[Component], *, name: str) -> str:
    """Licences as a page."""
    rows = [f"| {n} | {v} | {x or 'not declared'} |" for n, v, x in licences(found)]
    debian = sum(1 for c in found if c.purl and c.purl.type == "deb")
    return "\n".join(
        [
            f"# Licences in the image `{name}`",
            "",
            f"{len(rows)} Python packages, by their own metadata. {debian} packages of Debian are "
            "listed in the bill of materials; their licences are in Debian's own records.",
            "",
            "| package | version | licence |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def write(root: Path, out: Path, *, name: str, version: str, digest: str = "") -> list[str]:
    """Write `sbom-NAME.json` and `licences-NAME.md`; return packages with a forbidden licence."""
    found = list(components(root))
    out.mkdir(parents=True, exist_ok=True)
    bom = bill(found, name=name, version=version, digest=digest)
    (out / f"sbom-{name}.json").write_text(JsonV1Dot6(bom).output_as_string(indent=1))
    (out / f"licences-{name}.md").write_text(table(found, name=name))
    return [f"{n} {v}: {x}" for n, v, x in licences(found) if FORBIDDEN.search(x)]


def main() -> int:
    """Read an image's root."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--digest", default="")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    bad = write(given.root, given.out, name=given.name, version=given.version, digest=given.digest)
    for line in bad:
        sys.stderr.write(f"error: {line} may not be in an image; replace the package\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

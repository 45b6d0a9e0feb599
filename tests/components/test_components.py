"""Components are thin, import nothing heavy at the top, and their READMEs are true."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDERS = sorted(p.parent for p in (ROOT / "components").glob("*/component.py"))
NAMES = [f.name for f in FOLDERS]


@pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)
def test_top_level_imports_are_the_standard_library_and_kfp(folder: Path) -> None:
    tree = ast.parse((folder / "component.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Import):
            modules = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [str(node.module)]
        else:
            continue
        for module in modules:
            first = module.split(".")[0]
            assert (
                first in sys.stdlib_module_names
                or first == "kfp"
                or module == "brewhouse.components.images"
            )


@pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)
def test_bodies_are_thin(folder: Path) -> None:
    tree = ast.parse((folder / "component.py").read_text())
    function = next(n for n in tree.body if isinstance(n, ast.FunctionDef))
    assert function.name == folder.name
    statements = [
        n for n in function.body if not isinstance(n, ast.Expr | ast.ImportFrom | ast.Import)
    ]
    assert len(statements) <= 3


def test_readmes_are_in_step() -> None:
    check = subprocess.run(
        [sys.executable, "tools/component_readmes.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert check.returncode == 0, check.stdout


def test_every_folder_is_packaged() -> None:
    import tomllib

    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    on_disk = {
        "brewhouse" + "".join(f".{p}" for p in path.parent.relative_to(base).parts)
        for base in (ROOT / "src" / "brewhouse",)
        for path in base.rglob("__init__.py")
    } | {
        f"brewhouse.{path.parent.relative_to(ROOT).as_posix().replace('/', '.')}"
        for top in ("components", "models", "pipelines", "monitoring")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert listed == on_disk


def test_unknown_image_family() -> None:
    from brewhouse.components.images import image

    with pytest.raises(ValueError, match="unknown image family 'gpu'"):
        image("gpu")

"""Writes components/<name>/README.md from the compiled component; `--check` only compares."""

import ast
import sys
from pathlib import Path

from brewhouse import offline

offline.silence()

ROOT = Path(__file__).resolve().parents[1]


def describe(folder: Path) -> str:
    """Markdown of one component: what it does, its inputs and outputs, its image."""
    from importlib import import_module

    name = folder.name
    component = getattr(import_module(f"brewhouse.components.{name}.component"), name)
    spec = component.component_spec
    tree = ast.parse((folder / "component.py").read_text(encoding="utf-8"))
    function = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
    summary, told = _docstring(ast.get_docstring(function) or "")
    lines = [
        f"# {name}",
        "",
        ast.get_docstring(tree) or "",
        "",
        summary,
        "",
        f"Image: `{spec.implementation.container.image}`",
        "",
        "## Inputs",
        "",
        "| name | type | default | meaning |",
        "|---|---|---|---|",
    ]
    for key, value in (spec.inputs or {}).items():
        default = "" if not value.optional else f"`{value.default!r}`"
        lines.append(f"| {key} | {_type(value.type)} | {default} | {told.get(key, '')} |")
    if not spec.inputs:
        lines.append("| none | | | |")
    lines += ["", "## Outputs", "", "| name | type | meaning |", "|---|---|---|"]
    for key, value in (spec.outputs or {}).items():
        meaning = told.get(key, told.get("Returns", ""))
        lines.append(f"| {key} | {_type(value.type)} | {meaning} |")
    if not spec.outputs:
        lines.append("| none | | |")
    return "\n".join(lines) + "\n"


def _type(name: str) -> str:
    return str(name).removeprefix("system.").split("@")[0]


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """Summary and the described arguments of a Google-style docstring."""
    summary, _, rest = text.partition("\n\nArgs:\n")
    arguments, _, returns = rest.partition("\n\nReturns:\n")
    told: dict[str, str] = {}
    current = ""
    for line in arguments.splitlines():
        name, colon, meaning = line.strip().partition(": ")
        if colon and len(line) - len(line.lstrip()) == 4:
            current = name
            told[current] = meaning
        elif current:
            told[current] += " " + line.strip()
    if returns:
        told["Returns"] = " ".join(returns.split())
    return summary, told


def main() -> int:
    """Write or check all READMEs; return 1 if `--check` finds one out of date."""
    stale = []
    for source in sorted((ROOT / "components").glob("*/component.py")):
        text, path = describe(source.parent), source.parent / "README.md"
        if "--check" in sys.argv:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                stale.append(path.relative_to(ROOT).as_posix())
        else:
            path.write_text(text, encoding="utf-8")
    if stale:
        print("out of date, run `make docs`: " + ", ".join(stale))
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())

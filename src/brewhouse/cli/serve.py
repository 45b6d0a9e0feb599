"""`brewhouse console`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from brewhouse.cli.release import Home


def console(
    home: Home = "",
    config: Annotated[
        Path | None, typer.Option(help="YAML file with address, identity, hosts; see the docs")
    ] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen on")] = None,
    read_only: Annotated[bool, typer.Option(help="Show everything, take no decision")] = False,
) -> None:
    """Serve the console: read the evidence, decide, roll back; on loopback by default."""
    import uvicorn

    from brewhouse.console.app import create_app
    from brewhouse.console.config import load_config
    from brewhouse.release.service import Release
    from brewhouse.release.settings import Settings

    given = load_config(config)
    changes = {"port": port or given.port, "read_only": read_only or given.read_only}
    found = given.model_copy(update=changes)
    app = create_app(found, Release(Settings.read(home)))
    typer.echo(f"console on http://{found.host}:{found.port}{found.root_path}/", err=True)
    uvicorn.run(
        app,
        host=found.host,
        port=found.port,
        # Addresses in headers are not believed: identity rests on where a connection comes from.
        proxy_headers=False,
        server_header=False,
        log_level="warning",
        timeout_graceful_shutdown=10,
    )


def inference_service(
    model: Annotated[
        str, typer.Option(help="champion, a version's number, or a model's folder")
    ] = "champion",
    spec: Annotated[
        Path | None, typer.Option(help="YAML file with name, namespace, GPUs, replicas")
    ] = None,
    storage: Annotated[
        str, typer.Option(help="Where KServe fetches the model, if not where it is kept")
    ] = "",
    home: Home = "",
) -> None:
    """Print a KServe InferenceService that serves a model; apply it with kubectl."""
    import yaml

    from brewhouse.domains.loader import parse_model, read_yaml
    from brewhouse.prompts.shards_manifest import ShardsManifest
    from brewhouse.release.choosing import chosen_model
    from brewhouse.release.serving import ServingSpec
    from brewhouse.release.serving import inference_service as build
    from brewhouse.release.settings import Settings

    given = ServingSpec()
    if spec:
        value, lines = read_yaml(spec)
        given = parse_model(ServingSpec, value or {}, path=spec, lines=lines)
    with chosen_model(model, Settings.read(home)) as chosen:
        manifest = ShardsManifest.read_file(chosen.path / "prompts.json")
        found = build(
            given,
            storage=storage or chosen.source,
            version=chosen.name,
            digest=chosen.digest,
            answers=max(len(answers) for answers in manifest.answers),
        )
    typer.echo(yaml.safe_dump(found, sort_keys=False), nl=False)

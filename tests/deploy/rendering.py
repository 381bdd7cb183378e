"""Renders the chart with Helm's own engine, in a process of its own: `python -m` reads values.

Go's runtime takes over signals of the process that loads it, which a test run cannot have.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.servers import PATIENCE_S

CHART = Path(__file__).parents[2] / "deploy/helm/ledgerflux"
RELEASE, NAMESPACE = "md", "market-data"

Manifest = dict[str, Any]


class RefusedError(Exception):
    """Helm does not render the chart with these values; the text is Helm's."""


def rendered(values: dict[str, Any]) -> list[Manifest]:
    """Return all manifests.

    Raises:
        RefusedError: a value is not of the schema, or a template refuses it.
    """
    command = [sys.executable, "-m", "tests.deploy.rendering"]
    done = subprocess.run(  # noqa: S603
        command,
        input=json.dumps(values),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        cwd=CHART.parents[2],
    )
    if done.returncode != 0:
        raise RefusedError(done.stderr)
    files: dict[str, str] = json.loads(done.stdout)
    yaml = YAML(typ="safe")
    return [
        manifest
        for name, text in sorted(files.items())
        if name.endswith(".yaml")
        for manifest in yaml.load_all(text)
        if manifest is not None
    ]


def main() -> int:
    """Render for the values on stdin; the files' text goes to stdout as JSON."""
    from helm_python import Chart, HelmError  # noqa: PLC0415  # loads Go's runtime

    values = json.load(sys.stdin)
    try:
        with Chart.load(CHART) as chart:
            chart.validate_schema(values)
            files = chart.render(values, name=RELEASE, namespace=NAMESPACE)
    except HelmError as error:
        sys.stderr.write(str(error))
        return 1
    json.dump(files, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""docs/api.md, made from the table of routes."""

from __future__ import annotations

import json
from collections.abc import Iterator

from adapter_lab.api.access import HEADER, PREFIX
from adapter_lab.api.call import KINDS, REQUIRED, Parameter
from adapter_lab.api.route import Route
from adapter_lab.api.table import ROUTES

INTRODUCTION = f"""\
# API

<!-- Made from the routes in extension/adapter_lab/api by `python -m adapter_lab.docs`; change it there. -->

Everything the tab does goes through these routes, which any program may use: they lie under `{PREFIX}` of the
web UI's own address, such as `http://127.0.0.1:7860{PREFIX}/status`. Bodies and answers are JSON. Settings are
named by their path, as in `{{"network.dim": 16}}`; [configuration.md](configuration.md) has all of them, and
`/schema` their types and ranges.

```
curl http://127.0.0.1:7860{PREFIX}/status
curl -X POST -H '{HEADER}: 1' -d '{{"settings": {{"network.dim": 16}}, "preset": "sdxl-lokr-8gb"}}' \\
    http://127.0.0.1:7860{PREFIX}/config/resolve
```

An answer that is no success has `error`, a sentence for a person, and where settings are wrong `problems`, a
list of `setting` and `message`. Its status is 400 for what can be mended, 401 without a login, 403 for what is
refused, 404 for what is not there, 409 for a report or estimate that a newer one has ended, 413 for a body
above 8 MB, 507 for a full disk.

Texts have at most 10,000 letters and paths 4,096; lists and objects have as many entries as is said below. A study
has at most 200 variants and 1,000 trainings, which are variants times seeds. What waits for a report, an estimate,
a plan or a command stands in a line of its own: what only looks is answered meanwhile.

- **Logins.** With `--api-auth`, give that name and password (HTTP Basic). With `--gradio-auth`, a page that has
  logged in is let in by its cookie. Where both are set, either will do.
- **Other sites.** What a page of another site makes a browser send is refused. Requests that change something
  need the header `{HEADER}: 1`. A web UI that listens on this machine only answers to its addresses and this
  machine's names; names of tunnels and proxies are listed in Settings > Adapter Lab.
- **Paths.** Where others can reach the web UI (`--listen`, `--share`, `--server-name`, or one of those names),
  every path must lie in its folders of models, adapters and embeddings, its data folder, the runs folder, or a
  folder of Settings > Adapter Lab > Further folders.
"""


def page() -> str:
    """The text of docs/api.md."""
    return "\n".join([INTRODUCTION, *(_section(route) for route in ROUTES)])


def _section(route: Route) -> str:
    address = route.path.replace(":path", "")
    lines = [f"## {route.method} {address}", "", route.about, ""]
    for place, parameters in (("query", route.query), ("body", route.body)):
        if parameters:
            lines += [f"| in the {place} | type | default | meaning |", "|---|---|---|---|"]
            lines += ["| " + " | ".join(_cells(parameter)) + " |" for parameter in parameters] + [""]
    return "\n".join([*lines, f"Gives {route.gives}.", ""])


def _cells(parameter: Parameter) -> Iterator[str]:
    yield f"`{parameter.name}`"
    limits = [str(limit) for limit in (parameter.minimum, parameter.maximum) if limit is not None]
    most = KINDS[parameter.kind].most
    length = f", at most {most:,}" if most and not parameter.choices and parameter.kind not in ("text", "path") else ""
    yield parameter.kind + length + (f", {' to '.join(limits)}" if len(limits) == 2 else "")
    yield "needed" if parameter.default is REQUIRED else f"`{json.dumps(parameter.default)}`"
    choices = f" ({', '.join(f'`{choice}`' for choice in parameter.choices)})" if parameter.choices else ""
    yield parameter.about.replace("|", "\\|") + choices

"""Studies: what they will come to, start, look at, steer, report."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from starlette.responses import Response

from adapter_lab.api import roots
from adapter_lab.api.call import Call, Parameter
from adapter_lab.api.catalog import SETTINGS
from adapter_lab.api.comparing import script
from adapter_lab.api.context import Context
from adapter_lab.api.device import device
from adapter_lab.api.errors import BadRequest, NotFound, Refused
from adapter_lab.api.files import send
from adapter_lab.api.route import Route
from adapter_lab.api.runs import WHEN, in_words, open_folder_of
from adapter_lab.api.settings import understood
from adapter_lab.config import TrainConfig
from adapter_lab.errors import AdapterLabError
from adapter_lab.study.record.study_folder import StudyFolder
from adapter_lab.study.scores.settings import scorer_settings
from adapter_lab.study.spec import file as study_file
from adapter_lab.study.spec import variants as presets
from adapter_lab.study.spec.definition import DECIDED, MOST_VARIANTS, Study, Variant
from adapter_lab.validation import Problem
from adapter_lab.worker import StudyDetail

# What of a GPU's memory a training may take: the rest is the system's, and on Windows what is above spills over.
SHARE = 0.92
FORMS = {"html": "text/html", "md": "text/plain", "csv": "text/csv"}
# A report holds names and captions; it needs no script, and nothing from elsewhere.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


# Before the start


def variant_presets(context: Context, call: Call) -> list[dict[str, Any]]:
    return [
        {"name": name, "title": title, "about": about, "variants": _as_lists(make())}
        for name, (title, about, make) in presets.PRESETS.items()
    ]


def product(context: Context, call: Call) -> dict[str, Any]:
    text = {"off": (False,), "on": (True,), "both": (False, True)}[call["text_encoders"]]
    count = len(call["algorithms"]) * max(1, len(call["dims"])) * len(text)
    if count > MOST_VARIANTS:
        raise BadRequest(f"These would be {count} variants, and a study has at most {MOST_VARIANTS}: choose fewer.")
    return {"variants": _as_lists(presets.product(call["algorithms"], call["dims"], text, call["convolutions"]))}


def _as_lists(variants: Iterable[Variant]) -> list[dict[str, Any]]:
    return [{"name": variant.name, "settings": variant.settings} for variant in variants]


def plan(context: Context, call: Call) -> dict[str, Any]:
    study, remarks = _checked(context, call)
    options = ["--no-memory"]
    if call["memory"]:
        known = device()
        options = [f"--memory-bytes={int(SHARE * known['total_bytes'])}"] if known else []
    with tempfile.TemporaryDirectory(prefix="adapter-lab-") as folder:
        study_file.write(study, StudyFolder(Path(folder)).plan)
        found = context.worker.external(
            "study plan" if call["memory"] else "study sizes", ["study", "plan", folder, *options]
        )
    return {**found, "remarks": remarks}


def _checked(context: Context, call: Call) -> tuple[Study, list[str]]:
    """The study that a request describes, and what of its settings is not used; raises BadRequest for what is wrong."""
    from adapter_lab.study.spec import checks
    from adapter_lab.study.spec.checks import check, variant_problems

    study, remarks = _understood(call)
    check(study)
    scorer_settings(study)
    wrong = variant_problems(study)
    if wrong:
        raise BadRequest("\n".join(wrong))
    folders = context.adapter_folders()
    if folders and not study.shared.run.output_folder:
        study.shared.run.output_folder = str(folders[0] / study.name)
    _check_paths(context, call, study)
    return study, [*remarks, *checks.remarks(study)]


def _understood(call: Call) -> tuple[Study, list[str]]:
    """The study of a request's values; raises ConfigError for what is not understood."""
    shared, remarks = study_file.shared_from(understood(call["settings"]), DECIDED)
    tables = {
        "study": {"name": call["name"].strip(), "seeds": call["seeds"]},
        "budget": call["budget"],
        "race": call["race"],
        "variants": call["variants"],
        "scores": call["scores"],
    }
    study = study_file.from_tables(tables, "The study")
    study.shared = shared
    return study, remarks


def _check_paths(context: Context, call: Call, study: Study) -> None:
    """Raise Refused or BadRequest for paths that may not be named or are not there; writes them out in full."""
    from adapter_lab.study.spec.checks import settings_of

    roots.check_scores(context, call.public, study)
    found: list[Problem] = []
    for variant in study.variants:
        config = settings_of(study, variant)
        roots.check_settings(context, call.public, config)
        found += [problem for problem in roots.missing(config) if problem not in found]
        roots.make_absolute(config)
        variant.settings.update(_named(config, variant.settings))
    if found:
        raise BadRequest(in_words(found), found)
    roots.make_absolute(study.shared)
    study.shared.run.runs_folder = TrainConfig().run.runs_folder  # the study decides it


def _named(config: TrainConfig, paths: Iterable[str]) -> dict[str, Any]:
    return {path: getattr(getattr(config, path.split(".")[0]), path.split(".")[1]) for path in paths}


def start(context: Context, call: Call) -> dict[str, Any]:
    study, remarks = _checked(context, call)
    files = Path(study.shared.run.output_folder) if study.shared.run.output_folder else None
    if files is not None and files.is_dir() and any(files.glob("*.safetensors")):
        raise BadRequest(f"{files} already holds adapter files: give the study another name.")
    return {"id": context.worker.submit_study(study, call["when"]), "remarks": remarks}


# Looking


def everything(context: Context, call: Call) -> list[dict[str, Any]]:
    return [study.to_dict() for study in context.worker.studies()]


def known(context: Context, call: Call) -> StudyFolder:
    """The folder of the study that the address names; raises NotFound."""
    study_id = call.path["id"]
    try:
        if context.worker.is_study(study_id):
            return StudyFolder(context.worker.root / study_id)
    except (AdapterLabError, OSError, ValueError):
        pass
    raise NotFound(f"There is no study {study_id!r}; it may have been deleted.")


def _detail(context: Context, call: Call) -> StudyDetail:
    known(context, call)
    return context.worker.study(call.path["id"])


def one(context: Context, call: Call) -> dict[str, Any]:
    folder = known(context, call)
    return {**_detail(context, call).to_dict(), "report": folder.report.is_file()}


def recommendation(context: Context, call: Call) -> dict[str, Any]:
    folder = known(context, call)
    with _one_at_a_time:
        seen = _last_change(folder)
        kept = _advice.get(str(folder.path))
        if kept is None or kept[0] != seen:
            found = context.worker.external(f"advice {folder.path.name}", ["study", "status", str(folder.path)])
            kept = _advice[str(folder.path)] = (seen, found["recommendation"])
    return kept[1]


# Another page's question must not end the job of the first: it finds its answer.
_one_at_a_time = threading.Lock()
_advice: dict[str, tuple[float, dict[str, Any]]] = {}


def report(context: Context, call: Call) -> Response:
    folder, form = known(context, call), call["form"]
    path = folder.report.with_suffix(f".{form}")
    with _one_at_a_time:
        if not path.is_file() or path.stat().st_mtime < _last_change(folder):
            context.worker.external(f"report {folder.path.name}", ["study", "report", str(folder.path)])
    response = send(call, path, FORMS[form], "" if form == "html" else f"{folder.path.name}{path.suffix}")
    response.headers["Content-Security-Policy"] = POLICY
    return response


def _last_change(folder: StudyFolder) -> float:
    """When the study last came to something new, in seconds since 1970."""
    return max((_modified(path) for path in _records(folder)), default=0.0)


def _records(folder: StudyFolder) -> Iterator[Path]:
    yield from (folder.plan, folder.running, folder.state)
    yield from folder.runs.glob("*/events.jsonl")
    yield from folder.path.glob("scores/*/*.json")


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def plot(context: Context, call: Call) -> dict[str, Any]:
    from adapter_lab.comparing.sending import study_plot  # imports torch, which the page alone does not need

    found = _detail(context, call)
    title = script(context)
    trainings = [training for row in found.rows for training in row["trainings"] if training["adapters"]]
    runs = [f"{found.name}-{training['name']}" for training in trainings]
    points = max((training["point"] for training in trainings), default=0)
    try:
        made = study_plot(runs, points, found.prompts, [found.prompt_seed])
    except AdapterLabError as error:
        raise Refused(str(error)) from None
    return made.to_dict(title)


# Steering


def stop(context: Context, call: Call) -> dict[str, Any]:
    known(context, call)
    context.worker.stop(call.path["id"], call["how"])
    return {"id": call.path["id"]}


def resume(context: Context, call: Call) -> dict[str, Any]:
    from adapter_lab.study.spec.checks import check, variant_problems

    folder = known(context, call)
    study = study_file.load(folder.plan)
    check(study)
    wrong = variant_problems(study)
    if wrong:
        raise BadRequest(f"{folder.plan} needs a change:\n" + "\n".join(wrong))
    _check_paths(context, call, study)
    context.worker.resume(call.path["id"], when=call["when"])
    return {"id": call.path["id"]}


def open_folder(context: Context, call: Call) -> dict[str, Any]:
    return open_folder_of(known(context, call).path, call)


STUDY = (
    Parameter("name", "text", "the study's name: that of its folder, and how the names of its adapter files begin"),
    SETTINGS,
    Parameter("variants", "variants", "what is compared: a name and the settings in which each differs"),
    Parameter("budget", "settings", "unit (minutes, steps, images), amount, points, parameters, tolerance", {}),
    Parameter("race", "settings", "enabled, metric, confidence, first_point, least, longest", {}),
    Parameter("seeds", "whole numbers", "every variant is trained with each", [1], minimum=0, maximum=2**53),
    Parameter("scores", "settings", "scorers' settings by scorer, as in docs/scores.md", {}),
)
LINE = (
    "`id`, `folder`, `name`, `state` (as a run's), `message`, `progress` (0 to 1), `started_at`, `ended_at`, "
    "`eta_seconds`, `variants`, `trainings`, `ended`, `failed`, `unit`, `amount`, `points`, `files`"
)

ROUTES = (
    Route(
        "GET",
        "/variants",
        variant_presets,
        "Ready-made tables of variants.",
        "a list of `name`, `title`, `about`, `variants` (`name`, `settings`)",
    ),
    Route(
        "POST",
        "/variants",
        product,
        "Variants as a product: algorithms x dims x text encoders.",
        "`variants` (`name`, `settings`)",
        body=(
            Parameter("algorithms", "texts", "algorithms, such as lora and lokr"),
            Parameter("dims", "whole numbers", "dims for those that have one", [16], minimum=1, maximum=100_000),
            Parameter("text_encoders", "text", "whether they are trained", "off", ("off", "on", "both")),
            Parameter("convolutions", "on or off", "whether those are trained too", False),
        ),
    ),
    Route(
        "POST",
        "/studies/plan",
        plan,
        "What a study will come to, before it starts. A newer one ends it.",
        "what `adapter-lab study plan --json` gives, and `remarks` on settings that are not used",
        body=(*STUDY, Parameter("memory", "on or off", "also the peak memory, which takes seconds per variant", False)),
        waits=True,
    ),
    Route(
        "POST",
        "/studies",
        start,
        "Start a study, or add it to the queue.",
        "`id`: the study's name, and `remarks`",
        body=(*STUDY, WHEN),
    ),
    Route("GET", "/studies", everything, "Every study in the runs folder, the newest first.", f"a list of {LINE}"),
    Route(
        "GET",
        "/studies/{id}",
        one,
        "One study in full.",
        "the same and `rows` (per variant `variant`, `settings`, `state` (queued, running, done, dropped, failed, "
        "skipped, killed), `why`, `progress`, `step`, `minutes`, `point`, `loss`, `validation_loss`, "
        "`seconds_per_step`, `peak_bytes`, `file_bytes`, `predicted`, `trainings`), `seeds`, `race`, `base`, "
        "`pictures`, `prompts`, `scorers`, `decisions` (what the race dropped: `variant`, `point`, `time`, `why`), "
        "`notes`, `report` (whether one is written)",
    ),
    Route(
        "GET",
        "/studies/{id}/recommendation",
        recommendation,
        "Which variant and which step to use, by what was measured so far.",
        "`headline`, `variant`, `point`, `adapter`, `reasons`, `cautions`, `wasteful`, `not_measured`",
        waits=True,
    ),
    Route(
        "GET",
        "/studies/{id}/report",
        report,
        "The report of what a study has come to so far, written again where there is something new.",
        "the file",
        query=(Parameter("form", "text", "of the file", "html", tuple(FORMS)),),
        waits=True,
    ),
    Route(
        "GET",
        "/studies/{id}/plot",
        plot,
        "What the web UI's X/Y/Z plot is filled with to compare the trainings of a study.",
        "`prompt`, `seed`, `axes` (label and values of each), `script`, and all of it as an `infotext` for txt2img",
        waits=True,
    ),
    Route(
        "POST",
        "/studies/{id}/stop",
        stop,
        "End a study; it can go on later.",
        "`id`",
        body=(Parameter("how", "text", "save: after what trains has saved; now: at once", "save", ("save", "now")),),
    ),
    Route(
        "POST",
        "/studies/{id}/resume",
        resume,
        "Go on with a study that ended or was interrupted, by its study.toml.",
        "`id`",
        body=(WHEN,),
    ),
    Route(
        "POST",
        "/studies/{id}/open-folder",
        open_folder,
        "Open the study's folder in the file browser of the machine that the web UI runs on.",
        "`id`",
    ),
)

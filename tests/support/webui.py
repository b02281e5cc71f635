"""A real web UI, started from a checkout or already running, and what it is asked through its API."""

from __future__ import annotations

import base64
import io
import json
import os
import shlex
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image, ImageChops
from safetensors.torch import load
from torch import Tensor

from adapter_lab.hosts.settings import OPTIONS

ROOT = Path(__file__).resolve().parents[2]
PROBE = ROOT / "tests" / "hosts" / "probe"
START_SECONDS, ANSWER_SECONDS = 600, 900
ADDS_ITS_API = 5.0  # seconds after a port opens: A1111 ends if it is asked anything before
# Deterministic, small, and nothing a sampler could hide.
PICTURE = {
    "width": 64,
    "height": 64,
    "steps": 1,
    "seed": 1,
    "cfg_scale": 1.0,
    "sampler_name": "Euler",
    "save_images": False,
}


class WebUIError(Exception):
    """The web UI answered with an error; `status` is HTTP's."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP {status}: {text}")
        self.status = status


@dataclass
class Picture:
    """A generated image and what its infotext says."""

    image: Image.Image
    infotext: str
    comments: list[str] = field(default_factory=list)

    @property
    def adapter_lab(self) -> str:
        """The value of `Adapter Lab:` in the infotext; empty if there is none."""
        _, _, rest = self.infotext.partition("Adapter Lab: ")
        if rest.startswith('"'):
            return str(json.JSONDecoder().raw_decode(rest)[0])
        return rest.partition(", ")[0].partition("\n")[0]


def difference(one: Picture, other: Picture) -> int:
    """The largest difference of two images in grey levels."""
    return max(high for _, high in ImageChops.difference(one.image, other.image).getextrema())


class WebUI:
    """A running web UI with our probe in it."""

    def __init__(self, url: str, log: Path | None = None, process: subprocess.Popen[bytes] | None = None) -> None:
        self.url = url.rstrip("/")
        self.log = log
        self.process = process

    def get(self, path: str, timeout: float = ANSWER_SECONDS) -> Any:
        return json.loads(self._request(path, None, timeout))

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return json.loads(self._request(path, body or {}, ANSWER_SECONDS))

    def products(self, keys: list[str]) -> dict[str, Tensor]:
        """The loaded model's weights, multiplied by the probe's inputs; by their names in a checkpoint."""
        return load(self._request("/adapter-lab-probe/products", {"keys": keys}, ANSWER_SECONDS))

    def layer_outputs(self, names: list[str]) -> dict[str, Tensor]:
        """What Anima's layers of these names put out for the probe's inputs, as they are in an image."""
        return load(self._request("/adapter-lab-probe/layer-outputs", {"names": names}, ANSWER_SECONDS))

    def watch(self, keys: list[str]) -> list[dict[str, Tensor]]:
        """The products after every step but the last since the last call, per step; from now on those of `keys`."""
        seen = load(self._request("/adapter-lab-probe/watch", {"keys": keys}, ANSWER_SECONDS))
        steps: list[dict[str, Tensor]] = [{} for _ in {name.partition(":")[0] for name in seen}]
        for name, product in seen.items():
            step, _, key = name.partition(":")
            steps[int(step)][key] = product
        return steps

    def has_script(self, title: str) -> bool:
        """Whether it has a script of this title, as its API calls it."""
        return title.lower() in self.get("/sdapi/v1/scripts")["txt2img"]

    def functions(self, names: list[str]) -> dict[str, Any]:
        """What the probe says of functions named "module:attribute"."""
        return self.post("/adapter-lab-probe/functions", {"names": names})

    def state(self) -> dict[str, Any]:
        """What the probe says of the process."""
        return self.get("/adapter-lab-probe/state")

    def _request(self, path: str, body: Mapping[str, Any] | None, timeout: float) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise WebUIError(error.code, error.read().decode(errors="replace")[:2000]) from None
        except OSError:
            if self._has_ended():
                raise RuntimeError(f"The web UI has ended; its output closes with:\n{self.console()[-3000:]}") from None
            raise

    def _listens(self) -> bool:
        """Whether it takes connections; asks nothing."""
        address = urlsplit(self.url)
        with socket.socket() as probe:
            return probe.connect_ex((address.hostname, address.port or 80)) == 0

    def _has_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def txt2img(self, prompt: str, **settings: Any) -> Picture:
        """Generate one image; raises WebUIError if the web UI fails."""
        answer = self.post("/sdapi/v1/txt2img", {**PICTURE, "prompt": prompt, **settings})
        info = json.loads(answer["info"])
        image = Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))).convert("RGB")
        return Picture(image, info["infotexts"][0], list(info.get("comments", [])))

    def refresh_adapters(self) -> None:
        """Let it look for new files, as the button in its page does."""
        self.post("/sdapi/v1/refresh-loras")

    @contextmanager
    def options(self, **options: Any) -> Iterator[None]:
        """Our options of its Settings page; the defaults afterwards, since its API does not tell what they were."""
        self.post("/sdapi/v1/options", options)
        try:
            yield
        finally:
            self.post("/sdapi/v1/options", {name: OPTIONS[name][0] for name in options})

    def adapter_folder(self) -> Path:
        """Where it looks for `<lora:...>` files."""
        return Path(self.state()["adapter_folder"])

    def checkpoint(self) -> Path:
        """The file of the loaded base model."""
        title = self.get("/sdapi/v1/options")["sd_model_checkpoint"]
        models = self.get("/sdapi/v1/sd-models")
        names = ("title", "model_name", "filename")
        found = [model for model in models if title in [model[name] for name in names]] or models
        return Path(found[0]["filename"])

    def reload_ui(self) -> None:
        """Press "Reload UI", and wait until the page is back."""
        before = self.state()["pid"]
        self.post("/adapter-lab-probe/reload")
        time.sleep(6)  # the web UI looks for this every five seconds
        self.wait(START_SECONDS)
        assert self.state()["pid"] == before, "the web UI was restarted, not reloaded"

    def wait(self, seconds: float) -> None:
        """Wait until it and the probe answer."""
        end = time.monotonic() + seconds
        if not self._listens():
            while not self._listens() and time.monotonic() < end and not self._has_ended():
                time.sleep(1)
            time.sleep(ADDS_ITS_API)
        while True:
            try:
                self.get("/adapter-lab-probe/state", timeout=60)
                return
            except (OSError, WebUIError, ValueError) as error:
                if time.monotonic() > end:
                    raise TimeoutError(f"{self.url} did not answer within {seconds:.0f} s: {error}") from error
            time.sleep(1)

    def console(self) -> str:
        """Everything it has printed, if it was started here."""
        return self.log.read_text(errors="replace") if self.log else ""


def _interpreter(folder: Path) -> str:
    """A web UI's own interpreter: its launcher installs packages into whatever runs it, so never into ours."""
    place = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    python = Path(os.environ.get("WEBUI_PYTHON") or folder.joinpath("venv", *place))
    if not python.exists():
        raise FileNotFoundError(f"{python} does not exist: name the web UI's interpreter in WEBUI_PYTHON.")
    return str(python)


@contextmanager
def started(folder: Path, log: Path, with_adapter_lab: bool = True) -> Iterator[WebUI]:
    """A web UI started from its checkout with the probe and, linked into `extensions/`, this repository.

    WEBUI_PYTHON is its interpreter, by default that of its `venv`, WEBUI_ARGS further flags of its `launch.py`. Both
    extensions are removed again unless they were there before.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [_interpreter(folder), "launch.py", "--api", "--port", str(port)]
    command += shlex.split(os.environ.get("WEBUI_ARGS", ""))
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "SD_WEBUI_RESTARTING": "1"}
    environment.pop("PYTHONPATH", None)
    with _extension(folder, "adapter-lab-probe", PROBE), _adapter_lab(folder, with_adapter_lab), log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment
        )
        web_ui = WebUI(f"http://127.0.0.1:{port}", log, process)
        try:
            web_ui.wait(START_SECONDS)
            yield web_ui
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _extension(folder: Path, name: str, source: Path) -> Iterator[None]:
    """`source` linked (or copied, where links are not allowed) into the web UI's extensions."""
    place = folder / "extensions" / name
    if place.is_symlink() and not place.exists():
        place.unlink()
    if place.exists():
        yield
        return
    place.parent.mkdir(exist_ok=True)
    try:
        place.symlink_to(source, target_is_directory=True)
    except OSError:
        shutil.copytree(source, place, ignore=shutil.ignore_patterns(".git", ".runtime", ".ci-*", "__pycache__"))
    try:
        yield
    finally:
        place.unlink() if place.is_symlink() else shutil.rmtree(place)


@contextmanager
def _adapter_lab(folder: Path, wanted: bool) -> Iterator[None]:
    """This repository among the web UI's extensions, or none of it."""
    installed = installed_copies(folder)
    if wanted and not installed:
        with _extension(folder, "sd-webui-adapter-lab", ROOT):
            yield
        return
    hidden = [] if wanted else [(path, folder / f".{path.name}.hidden") for path in installed]
    for path, away in hidden:
        path.rename(away)
    try:
        yield
    finally:
        for path, away in hidden:
            away.rename(path)


def installed_copies(folder: Path) -> list[Path]:
    """Folders in the web UI's extensions that are Adapter Lab."""
    return sorted(path.parents[1] for path in (folder / "extensions").glob("*/scripts/adapter_lab.py"))

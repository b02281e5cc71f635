"""What the page knows, where an answer and a change cross each other."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.browser import Page, environments

pytestmark = pytest.mark.parametrize("server", list(environments())[-1:], indirect=True)

# The module of the page that has this name.
LOADED = """
const resources = performance.getEntriesByType("resource").map((entry) => entry.name);
const loaded = (name) => import(resources.find((address) => address.includes(name)));
"""

# A reading of the runs whose answers are old by the time they come, as a change has been told before.
CROSSED = """
const [change, done] = arguments;
loaded("store.js").then(async ({ Store }) => {
    let tell, answer;
    const late = new Promise((resolve) => (answer = resolve));
    const old = { "/runs": [{ id: "old" }], "/queue": { order: ["old"], paused: false, active: [] } };
    const store = new Store({
        get: (path) => late.then(() => old[path]),
        listen: (url, act) => ((tell = act), { close() {} }),
    });
    store.watch(true);
    const reading = store.refresh();
    tell(change);
    answer();
    await reading;
    done({ runs: [...store.runs.keys()].sort(), order: store.queue.order });
});
"""


@pytest.mark.parametrize(
    ("change", "runs", "order"),
    [
        ({"runs": [{"id": "new"}]}, ["new", "old"], ["old"]),
        ({"removed": ["old"]}, [], ["old"]),
        ({"queue": {"order": ["new"], "paused": False, "active": []}}, ["old"], ["new"]),
    ],
)
def test_an_older_answer_does_not_undo_a_change(page: Page, change: Any, runs: list[str], order: list[str]) -> None:
    assert page.driver.execute_async_script(LOADED + CROSSED, change) == {"runs": runs, "order": order}


# The list of checkpoints comes after the first answer about the settings, which said that there is none.
FILLED_IN = """
const done = arguments[0];
loaded("form.js").then(async ({ Form }) => {
    const settings = [{ path: "base.checkpoint", default: "" }, { path: "dataset.folder", default: "" }];
    const problems = settings.map(({ path }) => ({ setting: path, message: `${path} is empty` }));
    const schema = { sections: [{ settings }], types: [{ settings: {} }] };
    localStorage.removeItem("adapter-lab-draft");
    const form = new Form({ post: async () => ({ problems }) }, schema);
    await form.resolve();
    form.set("base.checkpoint", "a.safetensors");
    done({ left: [...form.problems.keys()], wrong: form.mistaken("base.checkpoint") });
});
"""


def test_what_was_missing_is_no_mistake_once_it_is_there(page: Page) -> None:
    assert page.driver.execute_async_script(LOADED + FILLED_IN) == {"left": ["dataset.folder"], "wrong": False}


# Start is pressed for one type; while the server still answers, another is chosen. What was pressed is what starts.
PRESSED = """
const done = arguments[0];
Promise.all([loaded("summary.js"), loaded("form.js")]).then(async ([{ summary }, { Form }]) => {
    const settings = ["network.algo", "base.checkpoint"].map((path) => ({ path, default: "" }));
    const schema = { sections: [{ settings }], types: [{ settings: {} }], parts: [] };
    localStorage.removeItem("adapter-lab-draft");
    const answers = [], started = [];
    const api = {
        post: (path, body) =>
            path === "/config/resolve"
                ? new Promise((answer) => answers.push(() => answer({ problems: [], remarks: [], used: {} })))
                : (path === "/runs" && started.push(body.settings["network.algo"]), Promise.resolve({ id: "r" })),
    };
    const store = { busy: () => true, status: { environment: { ready: true } }, on() {}, refresh: async () => {} };
    const form = new Form(api, schema);
    const dataset = { report: null, on() {} };
    const { element } = summary({ api, store, openRun() {} }, form, dataset, () => {});
    const press = () => element.querySelector("#al-start").click();
    const answered = async () => {
        for (let turn = 0; turn < 20; turn += 1) {
            while (answers.length) answers.shift()();
            await new Promise((next) => setTimeout(next, 50)); // the form asks again by itself after a pause
        }
    };
    form.set("network.algo", "lora");
    press();
    form.set("network.algo", "lokr");
    await answered();
    press();
    form.set("network.algo", "boft");
    await answered();
    done(started);
});
"""


def test_start_takes_what_was_pressed(page: Page) -> None:
    assert page.driver.execute_async_script(LOADED + PRESSED) == ["lora", "lokr"]

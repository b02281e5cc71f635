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

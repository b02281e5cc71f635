"""What the page knows, where an answer and a change told meanwhile cross each other."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.browser import Page, environments

pytestmark = pytest.mark.parametrize("server", list(environments())[-1:], indirect=True)

# A reading of the runs whose answers are old by the time they come, as a change has been told before.
CROSSED = """
const [change, done] = arguments;
const loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
import(loaded.find((name) => /store\\.js/.test(name))).then(async ({ Store }) => {
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
    assert page.driver.execute_async_script(CROSSED, change) == {"runs": runs, "order": order}

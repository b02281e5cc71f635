/** What the page knows of the server: readings, changes that overtake them, and a lost connection. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Store } from "../../javascript/adapter_lab/server/store.js";

/** A server whose answers wait for `held`, and whose events are sent by `send`. */
function server(runs = [], queue = { order: [], paused: false, active: [] }) {
    const api = {
        held: Promise.resolve(),
        closed: 0,
        readings: 0,
        url: (path) => path,
        async get(path) {
            api.readings += path === "/runs" ? 1 : 0;
            await api.held;
            return { "/runs": runs, "/queue": queue }[path];
        },
        listen(_, receive, state) {
            Object.assign(api, { send: receive, state });
            return { close: () => (api.closed += 1) };
        },
    };
    return api;
}
const run = (id, state, started_at) => ({ id, state, started_at });

test("a change that comes while the server is read is newer than the answer", async () => {
    const api = server([run("a", "running", 1), run("gone", "finished", 1)]);
    const store = new Store(api);
    store.watch(true);
    let go;
    api.held = new Promise((resolve) => (go = resolve));
    const reading = store.refresh();
    api.send({ runs: [run("a", "finished", 1), run("b", "starting", 2)], removed: ["gone"], queue: { order: ["c"], paused: true, active: [] } });
    go();
    await reading;
    assert.deepEqual([...store.runs.values()].map(({ id, state }) => [id, state]), [["a", "finished"], ["b", "starting"]]);
    assert.deepEqual(store.queue.order, ["c"]);
    assert.equal(store.meanwhile.size, 0);
});

test("a reading that fails leaves what was known, and collects nothing more", async () => {
    const api = server([run("a", "running", 1)]);
    const store = new Store(api);
    await store.refresh();
    api.held = Promise.reject(new Error("gone"));
    await assert.rejects(store.refresh(), /gone/);
    assert.deepEqual([store.runs.size, store.meanwhile.size], [1, 0]);
});

test("listeners hear of what a change is about, and of nothing else", () => {
    const api = server();
    const store = new Store(api);
    const heard = [];
    for (const what of ["runs", "queue"]) store.on(what, () => heard.push(what));
    store.watch(true);
    api.send({ runs: [] });
    api.send({ removed: ["a"] });
    api.send({ queue: { order: [], paused: false, active: [] } });
    assert.deepEqual(heard, ["runs", "queue"]);
});

test("one connection is held while watching, and everything is read again once it is back", () => {
    const api = server();
    const store = new Store(api);
    const connected = [];
    store.on("connected", () => connected.push(store.connected));
    store.watch(true);
    store.watch(true);
    for (const state of [true, false, false, true]) api.state(state);
    assert.deepEqual([connected, api.readings], [[false, true], 1]);
    store.watch(false);
    store.watch(false);
    assert.deepEqual([api.closed, store.stream], [1, null]);
});

test("runs are sorted with those that wait first, then the newest; a study makes busy without a run", () => {
    const store = new Store(server());
    for (const entry of [run("old", "finished", 1), run("waits", "queued", null), run("new", "failed", 2)]) store.runs.set(entry.id, entry);
    assert.deepEqual(store.sorted().map(({ id }) => id), ["waits", "new", "old"]);
    assert.deepEqual([store.active(), store.busy()], [undefined, false]);
    store.queue = { order: [], paused: false, active: ["study"] };
    assert.equal(store.busy(), true);
    store.runs.set("now", run("now", "stopping", 3));
    assert.equal(store.active().id, "now");
});

test("a run whose process has not ended yet is no study", () => {
    const store = new Store(server());
    store.runs.set("a", run("a", "finished", 1));
    store.queue = { order: [], paused: false, active: ["a"] };
    assert.deepEqual([store.active(), store.busy(), store.studies()], [undefined, true, false]);
    store.queue = { order: [], paused: false, active: ["study"] };
    assert.equal(store.studies(), true);
});

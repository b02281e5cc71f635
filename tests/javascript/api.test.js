/** Requests and their errors in words, and events that go on after a lost connection. */
import assert from "node:assert/strict";
import { afterEach, mock, test } from "node:test";
import { Api, ApiError } from "../../javascript/adapter_lab/server/api.js";
import { S } from "../../javascript/adapter_lab/kit/strings.js";

const api = new Api("http://localhost/");
const answers = (status, text) => mock.method(globalThis, "fetch", async () => new Response(text, { status }));

afterEach(() => mock.restoreAll());

test("a query is escaped, and has only what was given", () => {
    assert.equal(api.url("/runs", { name: "a&b ü", after: null, of: undefined, from: 0 }), "http://localhost/adapter-lab/v1/runs?name=a%26b+%C3%BC&from=0");
    assert.equal(api.url("/runs", { after: null }), "http://localhost/adapter-lab/v1/runs");
});

test("what writes carries the header that other sites cannot send, what reads does not", async () => {
    const asked = answers(200, "{}");
    for (const ask of [() => api.get("/a"), () => api.post("/a"), () => api.put("/a"), () => api.delete("/a")]) await ask();
    const sent = asked.mock.calls.map(({ arguments: [, options] }) => [options.method, options.headers["X-Adapter-Lab"], options.body]);
    assert.deepEqual(sent, [["GET", undefined, undefined], ["POST", "1", "{}"], ["PUT", "1", "{}"], ["DELETE", "1", "{}"]]);
});

test("a refusal has the server's words and names settings; without words it has a sentence of the page", async () => {
    const refused = async (status, text) => {
        answers(status, text);
        const error = await api.get("/a").then(assert.fail, (reason) => reason);
        assert.ok(error instanceof ApiError);
        mock.restoreAll();
        return [error.message, error.status, error.problems];
    };
    const problems = [{ setting: "run.steps", message: "too few" }];
    assert.deepEqual(await refused(400, JSON.stringify({ error: "Too few steps.", problems })), ["Too few steps.", 400, problems]);
    assert.deepEqual(await refused(401, '{"detail": "Not authenticated"}'), [S.errors.signedOut, 401, []]);
    assert.deepEqual(await refused(502, "<html>Bad gateway"), ["The web UI answered with an error (502); its console says more.", 502, []]);
});

test("a server that is gone is said; a request that was called off is not", async () => {
    mock.method(globalThis, "fetch", async () => Promise.reject(new TypeError("Failed to fetch")));
    await assert.rejects(api.get("/a"), { message: S.errors.unreachable, status: 0 });
    mock.method(globalThis, "fetch", async () => Promise.reject(new DOMException("", "AbortError")));
    await assert.rejects(api.post("/a"), { name: "AbortError" });
});

test("events go on after the last one received, until they end or nobody listens", (context) => {
    const sources = [];
    globalThis.EventSource = class extends EventTarget {
        constructor(address) {
            super();
            this.address = address;
            sources.push(this);
        }

        close() {
            this.closed = true;
        }
    };
    context.after(() => delete globalThis.EventSource);
    context.mock.timers.enable({ apis: ["setTimeout"] });
    const received = [];
    const connected = [];
    api.listen((after) => `/events?after=${after}`, (value, id) => received.push([value, id]), (state) => connected.push(state));
    sources[0].onopen();
    sources[0].onmessage({ lastEventId: "7", data: '{"a": 1}' });
    sources[0].onmessage({ lastEventId: "", data: "2" });
    sources[0].onerror();
    context.mock.timers.tick(60_000);
    assert.deepEqual([received, connected], [[[{ a: 1 }, 7], [2, 7]], [true, false]]);
    assert.deepEqual(sources.map(({ address, closed }) => [address, closed]), [["/events?after=null", true], ["/events?after=7", undefined]]);
    sources[1].dispatchEvent(new Event("end"));
    sources[1].onerror();
    context.mock.timers.tick(60_000);
    assert.deepEqual([sources.length, sources[1].closed, connected.length], [2, true, 2]);
    const left = api.listen(() => "/left", () => {});
    sources[2].onerror();
    left.close();
    context.mock.timers.tick(60_000);
    assert.equal(sources.length, 3);
});

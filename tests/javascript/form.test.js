/** The settings being filled in: what counts as changed, what a draft keeps, and whose problems are shown. */
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

const kept = new Map();
globalThis.localStorage = { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => void kept.set(key, value) };
globalThis.Node ??= class {};
const { Form, same } = await import("../../javascript/adapter_lab/server/form.js");
const { ApiError } = await import("../../javascript/adapter_lab/server/api.js");

const SCHEMA = {
    types: [{ settings: { "network.dim": 32 } }],
    sections: [
        { settings: [{ path: "network.dim", default: 16 }, { path: "run.steps", default: 0 }, { path: "save.every_steps", default: 0 }] },
        { settings: [{ path: "run.name", default: "adapter" }, { path: "network.rules", default: [] }] },
    ],
};
const answering = (answer) => ({ post: async () => answer() });
const form = (answer = () => ({ problems: [], used: {} })) => new Form(answering(answer), SCHEMA);

beforeEach(() => kept.clear());

test("a new form starts with the first type and an end, and a draft is taken up without what is unknown", () => {
    assert.deepEqual(form().changed, { "run.steps": 1000, "save.every_steps": 200, "network.dim": 32 });
    kept.set("adapter-lab-draft", JSON.stringify({ "network.dim": 8, "gone.setting": 1 }));
    assert.deepEqual(form().changed, { "network.dim": 8 });
    kept.set("adapter-lab-draft", "{");
    assert.equal(form().get("network.dim"), 32);
});

test("what is set back to its default is no change, also of lists", () => {
    const settings = form();
    settings.setAll({ "network.dim": 16, "network.rules": [{ match: "a" }] });
    assert.deepEqual([settings.get("network.dim"), "network.dim" in settings.changed], [16, false]);
    settings.set("network.rules", []);
    assert.equal("network.rules" in settings.changed, false);
    assert.ok(same([1, { a: 2 }], [1, { a: 2 }]) && !same("1", 1));
});

test("other settings take the place of all but those that are kept", () => {
    const settings = form();
    settings.setAll({ "run.name": "mine", "network.dim": 4 });
    settings.replace({ "network.dim": 64 }, ["run.name"]);
    assert.deepEqual(settings.changed, { "network.dim": 64, "run.steps": 1000, "save.every_steps": 200, "run.name": "mine" });
});

test("what is only missing is no mistake until Start, and answers are not about later changes", async () => {
    const problems = [
        { setting: "run.name", message: "give a name" },
        { setting: "network.rules[0].match", message: "give a pattern" },
    ];
    const settings = form(() => {
        throw new ApiError("two problems", 400, problems);
    });
    settings.insisted = false;
    const asked = settings.resolve();
    settings.newer.add("network.rules");
    await asked;
    assert.deepEqual([...settings.problems.keys()], ["run.name"]);
    assert.equal(settings.mistaken("run.name"), false);
    settings.insist();
    assert.equal(settings.mistaken("run.name"), true);
});

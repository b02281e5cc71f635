/** The name that is proposed for a run: from the folder of images, free, and never in place of a person's own. */
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

const kept = new Map();
globalThis.localStorage = { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => void kept.set(key, value) };
const { Form } = await import("../../javascript/adapter_lab/server/form.js");
const { NameProposal } = await import("../../javascript/adapter_lab/train/naming.js");

const setting = (path) => ({ path, default: "" });
const SCHEMA = { types: [{ settings: {} }], sections: [{ settings: [setting("run.name"), setting("dataset.folder")] }] };

/** A form with a proposal; `files` and `runs` are names that are taken. */
function proposal(files = [], runs = []) {
    const form = new Form({ post: async () => ({ problems: [], used: {} }) }, SCHEMA);
    const app = { api: { get: async () => files.map((name) => ({ name })) }, store: { runs: new Map(runs.map((name) => [name, { name }])) } };
    return { form, naming: new NameProposal(app, form), name: () => form.get("run.name") };
}

beforeEach(() => kept.clear());

test("a folder's name becomes a file name", () => {
    const { form, name } = proposal();
    const names = { "/a/10_two heroes/": "two-heroes", "C:\\pictures\\Élan (new)": "Élan-new", " /a/猫.v2 ": "猫-v2", "/a/___": "___" };
    for (const [folder, wanted] of Object.entries(names)) {
        form.set("dataset.folder", folder);
        assert.equal(name(), wanted, folder);
    }
    form.set("dataset.folder", `/a/${"x".repeat(80)}`);
    assert.equal(name().length, 60);
});

test("a name that files, steps of them or runs have gets a number", async () => {
    const { form, naming, name } = proposal(["cats", "folder/cats-2-000200"], ["cats-3"]);
    await naming.refresh();
    form.set("dataset.folder", "/cats");
    assert.equal(name(), "cats-4");
});

test("a person's own name stays, until it is the proposed one again", () => {
    const { form, name } = proposal();
    form.set("dataset.folder", "/cats");
    form.set("run.name", "mine");
    form.set("dataset.folder", "/dogs");
    assert.equal(name(), "mine");
    form.set("run.name", "cats");
    form.set("dataset.folder", "/birds");
    assert.equal(name(), "birds");
});

test("after a reload a proposed name is still no own one", () => {
    for (const [given, wanted] of [["cats-2", "dogs"], ["cats-two", "cats-two"]]) {
        kept.set("adapter-lab-draft", JSON.stringify({ "run.name": given, "dataset.folder": "/cats" }));
        const { form, name } = proposal();
        form.set("dataset.folder", "/dogs");
        assert.equal(name(), wanted);
    }
});

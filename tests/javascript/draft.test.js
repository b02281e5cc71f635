/** A study being put together: what this browser keeps, names of rows and studies, and what the server is asked with. */
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

const kept = new Map();
globalThis.localStorage = { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => void kept.set(key, value) };
const { StudyDraft } = await import("../../javascript/adapter_lab/study/draft.js");

const KEY = "adapter-lab-study";
const trainForm = (values = {}) => ({ on() {}, get: (path) => values[path], values: () => structuredClone(values) });
const draft = (values = {}) => new StudyDraft(trainForm(values));
const row = (name, settings = {}) => ({ name, settings });

beforeEach(() => kept.clear());

test("what was kept is there again, with defaults for what an older page did not keep", () => {
    draft().set("seeds", "1, 2");
    assert.deepEqual([draft().values.seeds, draft().values.amount], ["1, 2", 60]);
    kept.set(KEY, '{"name": "old"}');
    assert.deepEqual([draft().values.name, draft().values.points], ["old", 8]);
    for (const unreadable of ["{", "null"]) {
        kept.set(KEY, unreadable);
        assert.equal(draft().values.name, "study");
    }
});

test("one draft's scorers are not another's", () => {
    draft().values.scorers.dino = "a/model";
    assert.equal(draft().values.scorers.dino, "");
});

test("added rows have names of their own, and are copies", () => {
    const study = draft();
    const settings = { "network.dim": 8 };
    study.replace([row("LoRA", settings)]);
    assert.equal(study.values.edited, false);
    study.add([row("LoRA", settings), row("LoRA", settings)]);
    study.rows[1].settings["network.dim"] = 16;
    assert.deepEqual(study.rows.map((entry) => [entry.name, entry.settings["network.dim"]]), [["LoRA", 8], ["LoRA 2", 16], ["LoRA 3", 8]]);
    study.remove(study.rows[1]);
    assert.deepEqual([study.rows.map((entry) => entry.name), study.values.edited, settings], [["LoRA", "LoRA 3"], true, { "network.dim": 8 }]);
});

test("a taken name of a study is counted on", () => {
    const name = (wanted, taken) => {
        const study = draft();
        study.set("name", wanted);
        study.avoid(taken);
        return study.values.name;
    };
    assert.equal(name("study", []), "study");
    assert.equal(name("study", ["study", "study-2"]), "study-3");
    assert.equal(name("heroes-9", ["heroes-9", "heroes"]), "heroes-10");
    assert.equal(name("2026", ["2026"]), "2026-2");
});

test("variants share the form's settings but those that a study decides; its own prompts come first", () => {
    const decided = { "network.dim": 4, "run.name": "cat", "run.steps": 10, "run.seed": 3, "save.every_steps": 5, "save.keep_last": 1 };
    const shared = { "dataset.folder": "/cats", "run.batch_size": 2, "save.dtype": "bf16" };
    const study = draft({ ...decided, ...shared, "preview.prompts": ["of Train"] });
    assert.deepEqual(study.body().settings, { ...shared, "preview.prompts": ["of Train"] });
    study.set("prompts", " a cat \n\n a dog ");
    assert.deepEqual(study.body().settings, { ...shared, "preview.prompts": ["a cat", "a dog"] });
});

test("only ticked rows are asked for, a race only when it is wanted, scorers only with a model", () => {
    const study = draft();
    study.replace([row("a"), row("b")]);
    study.rows[0].on = false;
    assert.deepEqual([study.body().variants, study.body().race, study.body().scores], [[row("b")], {}, {}]);
    study.set("race", true);
    study.values.scorers.dino = " facebook/dinov2-base ";
    study.set("prompts", "a cat");
    assert.deepEqual(study.body().race, { enabled: true, metric: "loss", confidence: 2 });
    assert.deepEqual(study.body().scores, { pictures: { prompts: ["a cat"] }, dino: { model: "facebook/dinov2-base", metrics: ["fidelity", "drift"] } });
});

test("seeds that are no whole numbers go to the server as they are, which names them", () => {
    const study = draft();
    study.set("seeds", "1, 2;x 3.5 -1");
    assert.deepEqual(study.seeds(), [1, 2, "x", "3.5", "-1"]);
});

test("what is missing is said in the order of the form", () => {
    const sentences = { folder: "folder", base: "base", rows: "rows" };
    const values = {};
    const study = draft(values);
    const said = () => study.missing(sentences);
    assert.equal(said(), "folder");
    values["dataset.folder"] = "/cats";
    assert.equal(said(), "base");
    values["base.checkpoint"] = "/base.safetensors";
    assert.equal(said(), "rows");
    study.replace([row("a")]);
    assert.equal(said(), "");
});

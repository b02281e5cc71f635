/** The page's sentences: each that is shown exists, and each that exists is shown. */
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { S } from "../../javascript/adapter_lab/kit/strings.js";

const PAGE = fileURLToPath(new URL("../../javascript/adapter_lab/", import.meta.url));
const modules = readdirSync(PAGE, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".js") && !name.startsWith("vendor") && !name.endsWith("strings.js"));
const mentions = (name) => [...readFileSync(PAGE + name, "utf8").matchAll(/\bS((?:\.\w+)+)/g)].map(([, path]) => path.slice(1).split("."));
/** What the page shows: a sentence, or a table that it picks one of. */
const shown = new Set(modules.flatMap(mentions).map((parts) => upToSentence(parts).join(".")));

/** S.a.b.replace is S.a.b. @param {string[]} parts */
function upToSentence(parts) {
    const end = parts.findIndex((_, index) => typeof parts.slice(0, index + 1).reduce((value, part) => value?.[part], S) === "string");
    return end < 0 ? parts : parts.slice(0, end + 1);
}

/** @returns {string[]} */
function paths(value, path = "") {
    if (typeof value === "string") return [path];
    return Object.entries(value).flatMap(([key, inner]) => paths(inner, path ? `${path}.${key}` : key));
}

test("every sentence is shown somewhere", () => {
    const tables = [...shown].map((path) => `${path}.`);
    assert.deepEqual(paths(S).filter((path) => !shown.has(path) && !tables.some((table) => path.startsWith(table))), []);
});

test("no module shows a sentence that does not exist", () => {
    const there = new Set(paths(S).flatMap((path) => path.split(".").map((_, index, parts) => parts.slice(0, index + 1).join("."))));
    assert.ok(shown.size > 200);
    assert.deepEqual([...shown].filter((path) => !there.has(path)), []);
});

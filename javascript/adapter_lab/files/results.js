/** What a tool of the Files tab answers, as tables and a download. */
import { folded, h, table } from "../kit/dom.js";
import { fileName, plain, size } from "../kit/format.js";
import { S } from "../kit/strings.js";

/** @param {import("../app.js").App} app @param {string} tool @param {any} result */
export function drawResult(app, tool, result) {
    return tool === "inspect" ? inspected(result) : written(app, result);
}

function inspected(result) {
    const facts = [
        [S.inspected.file, result.path],
        [S.inspected.size, size(result.bytes)],
        [S.inspected.type, counts(result.algorithms)],
        [S.inspected.parts, counts(result.parts)],
        [S.inspected.base, result.base_model],
        [S.inspected.family, result.family],
        [S.inspected.step, result.step],
        [S.inspected.parameters, result.parameters?.toLocaleString()],
        [S.inspected.formats, counts(result.dtypes)],
        [S.inspected.unknown, reasons({ ...result.broken, ...result.unknown })],
    ].filter(([, value]) => value !== null && value !== undefined && value !== "–" && value !== "");
    const columns = [...new Set((result.groups ?? []).flatMap((group) => Object.keys(group)))];
    const { source, ...hosts } = result.alone ?? {};
    return [
        pairs(facts),
        columns.length > 0 && table(columns, result.groups.map((group) => columns.map((column) => plain(group[column]))), S.files.modules),
        Object.keys(hosts).length > 0 && table([S.inspected.host, S.inspected.does, S.inspected.why], Object.entries(hosts).map(([host, verdict]) => [host, verdict.outcome, verdict.why])),
        result.metadata && folded(S.files.metadata, pairs(Object.entries(result.metadata).map(([key, value]) => [key, plain(value)]))),
    ];
}

function counts(table_) {
    return Object.entries(table_ ?? {}).map(([name, count]) => `${name} ${count}`).join(", ");
}

function reasons(table_) {
    return Object.entries(table_).map(([name, why]) => `${name}: ${why}`).join("; ");
}

function written(app, result) {
    const path = result.out ?? result.path;
    const simple = Object.entries(result).filter(([, value]) => typeof value !== "object" || value === null);
    const lists = Object.entries(result).filter(([, value]) => value && typeof value === "object");
    return [
        path && h("p", { class: "al-row" }, h("a", { class: "al-button al-primary", href: app.api.url("/files/download", { path }), download: fileName(path) }, S.files.download), h("code", {}, path)),
        pairs(simple.map(([key, value]) => [key.replaceAll("_", " "), key.includes("bytes") ? size(value) : plain(value)])),
        lists.map(([key, value]) => folded(key.replaceAll("_", " "), nested(value))),
    ];
}

/** A list of objects as a table, everything else as pairs. */
function nested(value) {
    const rows = Array.isArray(value) ? value : Object.entries(value).map(([name, entry]) => (typeof entry === "object" && entry !== null && !Array.isArray(entry) ? { name, ...entry } : { name, value: entry }));
    if (!rows.length) return h("p", { class: "al-quiet" }, "–");
    if (typeof rows[0] !== "object" || rows[0] === null) return h("ul", { class: "al-list" }, rows.map((row) => h("li", {}, plain(row))));
    const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
    return table(columns, rows.slice(0, 500).map((row) => columns.map((column) => plain(row[column]))));
}

function pairs(entries) {
    return h("div", { class: "al-settings" }, h("div", {}, entries.map(([key, value]) => h("div", { class: "al-pair" }, h("span", {}, key), h("span", {}, value)))));
}

/** The Files tab: inspect, convert, merge, resize and extract, each a form of the command's options. */
import { button, fill, h, show } from "../kit/dom.js";
import { drawResult } from "./results.js";
import { fileName } from "../kit/format.js";
import { S, put } from "../kit/strings.js";

const DTYPES = ["same", "fp32", "fp16", "bf16"];
const RANK = [
    { name: "rank", label: S.files.rank, type: "int" },
    { name: "conv_rank", label: S.files.convRank, type: "int" },
    { name: "error", label: S.files.error, type: "float", help: S.files.errorHelp },
    { name: "energy", label: S.files.energy, type: "float", help: S.files.energyHelp },
];
const ADAPTER = { name: "adapter", label: S.files.file, type: "path", list: "al-adapters", required: true, wide: true };
const BASE = { name: "base", label: S.files.base, type: "path", list: "al-checkpoints", help: S.files.baseNeeded, wide: true };
const OUT = { name: "out", label: S.files.out, type: "path", required: true, wide: true };
const dtype = (choices) => ({ name: "dtype", label: S.files.dtype, type: "choice", choices });

/** A tool is a row: its fields are the options of its command. `suffix` proposes the file to write. */
const TOOLS = [
    { key: "inspect", title: S.files.inspect, about: S.files.inspectAbout, fields: [{ ...ADAPTER, name: "path" }] },
    {
        key: "convert",
        title: S.files.convert,
        about: S.files.convertAbout,
        suffix: "-converted",
        fields: [
            ADAPTER,
            {
                name: "form",
                label: S.files.form,
                type: "choice",
                choices: ["to=lora", "to=full", "to=same", "for=classic", "for=a1111", "for=forge", "for=reforge", "for=neo"],
                titles: [S.files.nearestLora, S.files.difference, S.files.ldmNames, ...["Forge-classic", "A1111", "Forge", "reForge", "Forge Neo"].map((host) => put(S.files.forHost, host))],
            },
            ...RANK,
            BASE,
            dtype(DTYPES),
            OUT,
        ],
    },
    {
        key: "merge",
        title: S.files.merge,
        about: S.files.mergeAbout,
        suffix: "-merged",
        fields: [
            { name: "adapter", label: S.files.files, type: "lines", list: "al-adapters", required: true, wide: true },
            { name: "to", label: S.files.form, type: "choice", choices: ["", "full"], titles: [S.files.exact, S.files.difference] },
            ...RANK,
            BASE,
            dtype(DTYPES),
            OUT,
        ],
    },
    { key: "resize", title: S.files.resize, about: S.files.resizeAbout, suffix: "-resized", fields: [ADAPTER, ...RANK, dtype(DTYPES), OUT] },
    {
        key: "extract",
        title: S.files.extract,
        about: S.files.extractAbout,
        suffix: "-extracted",
        fields: [
            { ...BASE, help: "", required: true },
            { name: "tuned", label: S.files.tuned, type: "path", list: "al-checkpoints", required: true, wide: true },
            { name: "to", label: S.files.form, type: "choice", choices: ["lora", "full"], titles: [S.files.nearestLora, S.files.everything] },
            ...RANK,
            dtype(["fp16", "bf16", "fp32"]),
            OUT,
        ],
    },
];

/** @param {import("../app.js").App} app */
export function filesView(app) {
    const adapters = h("datalist", { id: "al-adapters" });
    const checkpoints = h("datalist", { id: "al-checkpoints" });
    const forms = new Map(TOOLS.map((tool) => [tool.key, toolForm(app, tool)]));
    const choices = TOOLS.map((tool, index) => {
        const radio = h("input", { type: "radio", name: "al-tool", value: tool.key });
        radio.checked = index === 0;
        radio.addEventListener("change", () => choose(tool.key));
        return h("label", { class: "al-pill" }, radio, h("span", {}, tool.title));
    });
    const choose = (key) => {
        for (const [name, form] of forms) show(form, name === key);
    };
    choose(TOOLS[0].key);
    const load = async () => {
        const [files, bases] = await Promise.all(["/adapters", "/checkpoints"].map((path) => app.api.get(path).catch(() => [])));
        fill(adapters, files.map((file) => h("option", { value: file.path }, file.name)));
        fill(checkpoints, bases.map((file) => h("option", { value: file.path }, file.title)));
    };
    return {
        element: h("div", { class: "al-view" }, adapters, checkpoints, h("div", { class: "al-pills", role: "radiogroup", "aria-label": S.files.tools }, choices), ...forms.values()),
        shown: load,
    };
}

function toolForm(app, tool) {
    const result = h("div", { class: "al-result", "aria-live": "polite" });
    const inputs = new Map();
    const rows = tool.fields.map((field) => {
        const input = makeInput(field);
        input.id = `al-${tool.key}-${field.name}`;
        inputs.set(field.name, input);
        return h("div", { class: `al-field ${field.wide ? "al-wide" : ""}` }, h("label", { class: "al-label", for: input.id }, field.label), input, field.help && h("div", { class: "al-help" }, field.help));
    });
    proposeName(tool, inputs);
    const go = button(tool.title, run, { kind: "primary", id: `al-do-${tool.key}` });
    const form = h("form", { class: "al-card", novalidate: true, onsubmit: (event) => event.preventDefault() }, h("p", { class: "al-help" }, tool.about), h("div", { class: "al-grid" }, rows), h("div", { class: "al-actions" }, go), result);
    form.addEventListener("keydown", (event) => event.key === "Enter" && event.target instanceof HTMLInputElement && go.click());

    let pressed = 0;
    async function run() {
        const press = ++pressed;
        const tell = (content) => press === pressed && fill(result, content); // not the answer to an earlier press
        tell(h("p", { class: "al-waiting" }, S.files.working));
        try {
            tell(drawResult(app, tool.key, await app.api.post(`/files/${tool.key}`, options(tool, inputs))));
        } catch (error) {
            tell(h("p", { class: "al-problem" }, error.message));
        }
    }

    return form;
}

function makeInput(field) {
    if (field.type === "choice") return h("select", {}, field.choices.map((choice, index) => h("option", { value: choice }, field.titles?.[index] ?? choice)));
    if (field.type === "lines") return h("textarea", { rows: "3", spellcheck: "false" });
    return h("input", { type: "text", spellcheck: "false", list: field.list, inputmode: field.type === "path" ? "text" : "decimal" });
}

/** The command's options by name; what is left empty is left out. */
function options(tool, inputs) {
    const given = {};
    for (const field of tool.fields) {
        const text = inputs.get(field.name).value.trim();
        if (text === "") continue;
        if (field.name === "form") {
            const [name, value] = text.split("=");
            given[name] = value;
        } else if (field.type === "lines") given[field.name] = text.split("\n").map((line) => line.trim()).filter(Boolean);
        else if (field.type === "int" || field.type === "float") given[field.name] = Number.isFinite(Number(text)) ? Number(text) : text;
        else given[field.name] = text;
    }
    return given;
}

/** The file to write lies beside the file that is read, until a person names another. */
function proposeName(tool, inputs) {
    const out = inputs.get("out");
    const source = inputs.get(tool.key === "extract" ? "tuned" : "adapter");
    if (!out) return;
    let proposed = "";
    source.addEventListener("input", () => {
        if (out.value !== proposed) return;
        const first = source.value.trim().split("\n")[0].replace(/:[\d.]+$/, "");
        const name = fileName(first);
        proposed = name ? first.slice(0, first.length - name.length) + name.replace(/\.(safetensors|ckpt|pt)$/, "") + tool.suffix + ".safetensors" : "";
        out.value = proposed;
    });
}

/** One setting as a labelled control, by the type that the schema gives it. */
import { button, fill, h, setText, show } from "./dom.js";
import { readNumber } from "./format.js";
import { S } from "./strings.js";

let numbered = 0;

/**
 * A setting of the form with its label, help, unit and problems; hidden while nothing uses it.
 * @param {import("../server/form.js").Form} form @param {string} path
 * @param {{label?: string, control?: Control, always?: boolean, wide?: boolean}} [options]
 */
export function field(form, path, options = {}) {
    const setting = form.settings.get(path);
    const id = `al-field-${++numbered}`;
    const control = options.control ?? makeControl(setting, id, (value) => form.set(path, value));
    control.write(form.get(path));
    const problems = h("div", { class: "al-problem", id: `${id}-problem`, role: "alert" });
    const help = h("div", { class: "al-help", id: `${id}-help` }, setting.help);
    const input = control.input ?? control.element;
    input.id = id;
    input.setAttribute("aria-describedby", `${id}-help ${id}-problem`);
    const label = h(setting.type === "list[object]" ? "span" : "label", { class: "al-label", for: id }, options.label ?? setting.label);
    const row = setting.type === "bool";
    const element = h(
        "div",
        { class: `al-field ${row ? "al-check" : ""} ${options.wide ? "al-wide" : ""}`, "data-setting": path },
        row ? h("div", { class: "al-check-row" }, control.element, label) : [label, control.element],
        help,
        problems,
    );
    const refresh = () => {
        const messages = form.mistaken(path) ? form.problems.get(path) : [];
        setText(problems, messages.join(" "));
        element.classList.toggle("al-wrong", messages.length > 0);
        input.setAttribute("aria-invalid", String(messages.length > 0));
        element.classList.toggle("al-set", path in form.changed);
        if (!options.always) show(element, form.used(path) || form.problems.has(path));
    };
    form.on("changed", (event) => {
        if (event.detail.includes(path)) control.write(form.get(path));
        element.classList.toggle("al-set", path in form.changed);
    });
    form.on("resolved", refresh);
    refresh();
    return element;
}

/** @typedef {{element: HTMLElement, input?: HTMLElement, write: (value: any) => void}} Control */

/** @param {any} setting @param {string} id @param {(value: any) => void} changed @returns {Control} */
export function makeControl(setting, id, changed) {
    const make = setting.choices?.length && setting.type === "str" ? selectControl : CONTROLS[setting.type];
    return make(setting, changed, id);
}

/** @type {Record<string, (setting: any, changed: (value: any) => void, id: string) => Control>} */
const CONTROLS = {
    str: textControl,
    int: numberControl,
    float: numberControl,
    bool: checkControl,
    "list[str]": linesControl,
    "list[float]": numbersControl,
    "list[object]": objectsControl,
};

/** Write a value unless the person is typing in there. */
function writeUnlessTyped(input, text) {
    if (document.activeElement !== input || input.value.trim() === "") input.value = text;
}

function textControl(_, changed) {
    const input = h("input", { type: "text", spellcheck: "false", autocomplete: "off" });
    input.addEventListener("input", () => changed(input.value));
    return { element: input, write: (value) => document.activeElement !== input && (input.value = value ?? "") };
}

/** A number, or one of the words that the setting takes beside numbers, which are offered. */
function numberControl(setting, changed, id) {
    const words = setting.words ?? [];
    const keyboard = words.length ? "text" : setting.type === "int" ? "numeric" : "decimal";
    const input = h("input", { type: "text", inputmode: keyboard, autocomplete: "off" });
    const offered = words.length > 0 && h("datalist", { id: `${id}-words` }, words.map((word) => h("option", { value: word })));
    if (offered) input.setAttribute("list", offered.id);
    input.addEventListener("input", () => changed(readNumber(input.value, setting.default)));
    // What the form holds in the end, so that "1e-4" and an emptied field show what will be used.
    input.addEventListener("blur", () => (input.value = input.dataset.held ?? input.value));
    const write = (value) => {
        input.dataset.held = String(value ?? "");
        writeUnlessTyped(input, input.dataset.held);
    };
    if (!setting.unit && !offered) return { element: input, write };
    const unit = setting.unit ? h("span", { "aria-hidden": "true" }, setting.unit) : null;
    return { element: h("div", { class: unit ? "al-unit" : null }, input, unit, offered), input, write };
}

function checkControl(_, changed) {
    const input = h("input", { type: "checkbox" });
    input.addEventListener("change", () => changed(input.checked));
    return { element: input, write: (value) => (input.checked = Boolean(value)) };
}

function selectControl(setting, changed) {
    const input = h("select", {}, setting.choices.map((choice) => h("option", { value: choice }, choice === "" ? S.form.none : choice)));
    input.addEventListener("change", () => changed(input.value));
    return { element: input, write: (value) => (input.value = value) };
}

function linesControl(_, changed) {
    const input = h("textarea", { rows: "3", spellcheck: "false", placeholder: S.form.onePerLine });
    input.addEventListener("input", () => changed(input.value.split("\n").map((line) => line.trim()).filter(Boolean)));
    return { element: input, write: (value) => writeUnlessTyped(input, (value ?? []).join("\n")) };
}

function numbersControl(_, changed) {
    const input = h("input", { type: "text", inputmode: "decimal" });
    input.addEventListener("input", () => changed(input.value.split(/[,;\s]+/).filter(Boolean).map((text) => readNumber(text, 0))));
    return { element: input, write: (value) => writeUnlessTyped(input, (value ?? []).join(", ")) };
}

/** A list of objects: a box per entry with a control per setting of it. */
function objectsControl(setting, changed) {
    let items = [];
    const list = h("div", { class: "al-objects" });
    const tell = () => changed(items.map((item) => ({ ...item })));
    const draw = () =>
        fill(
            list,
            items.map((item, index) =>
                h(
                    "fieldset",
                    { class: "al-object" },
                    h("legend", {}, `${setting.label} ${index + 1}`),
                    setting.item.map((entry) => objectField(entry, item, tell)),
                    button(S.form.removeEntry, () => {
                        items.splice(index, 1);
                        draw();
                        tell();
                    }),
                ),
            ),
        );
    const add = button(S.form.addEntry, () => {
        items.push(Object.fromEntries(setting.item.map((entry) => [entry.path, entry.default])));
        draw();
        tell();
    });
    const write = (value) => {
        if (JSON.stringify(value ?? []) === JSON.stringify(items)) return;
        items = structuredClone(value ?? []);
        draw();
    };
    return { element: h("div", { role: "group", "aria-label": setting.label }, list, add), write };
}

function objectField(entry, item, tell) {
    const id = `al-field-${++numbered}`;
    const control = makeControl(entry, id, (value) => {
        item[entry.path] = value;
        tell();
    });
    control.write(item[entry.path] ?? entry.default);
    (control.input ?? control.element).id = id;
    return h("div", { class: "al-field" }, h("label", { class: "al-label", for: id }, entry.label), control.element, h("div", { class: "al-help" }, entry.help));
}

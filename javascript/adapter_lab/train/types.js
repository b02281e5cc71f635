/** The adapter type: a card each, with a sentence on what it is good for. */
import { h } from "../kit/dom.js";
import { same } from "../server/form.js";
import { S } from "../kit/strings.js";

/** @param {import("../app.js").App} app @param {import("../server/form.js").Form} form */
export function adapterTypes(app, form) {
    const types = app.store.schema.types;
    const radios = new Map();
    const cards = types.map((type) => {
        const radio = h("input", { type: "radio", name: "al-type", value: type.key, "aria-describedby": `al-type-${type.key}` });
        radio.addEventListener("change", () => form.setAll(settingsOf(form, types, type)));
        radios.set(type.key, radio);
        return h(
            "label",
            { class: "al-type", "data-type": type.key },
            radio,
            h("span", { class: "al-type-title" }, type.title),
            h("span", { class: "al-type-about", id: `al-type-${type.key}` }, type.good_for),
        );
    });
    const refresh = () => {
        const chosen = typeOf(form, types);
        for (const [key, radio] of radios) radio.checked = key === chosen;
    };
    form.on("changed", refresh);
    refresh();
    return h("div", { class: "al-types", role: "radiogroup", "aria-label": S.train.type }, cards);
}

/** Settings of a type, with everything that belongs to another type set back. */
function settingsOf(form, types, type) {
    const back = [...form.settings.values()].filter((entry) => entry.path.startsWith("network.") && entry.algorithms);
    const touched = types.flatMap((other) => Object.keys(other.settings));
    const paths = [...back.map((entry) => entry.path), ...touched];
    return { ...Object.fromEntries(paths.map((path) => [path, form.settings.get(path).default])), ...type.settings };
}

/**
 * The type that the settings are of: its algorithm, and the one that says most of what is set.
 * @returns {string} its key
 */
export function typeOf(form, types) {
    const switches = [...new Set(types.flatMap((type) => Object.keys(type.settings)))].filter((path) => {
        const kind = form.settings.get(path)?.type;
        return path === "network.algo" || kind === "bool" || path === "network.conv_dim";
    });
    const on = (path, value) => (path === "network.algo" ? value : Boolean(value));
    const score = (type) => {
        const wanted = (path) => (path in type.settings ? type.settings[path] : form.settings.get(path).default);
        if (!same(wanted("network.algo"), form.get("network.algo"))) return -1;
        return switches.filter((path) => on(path, wanted(path)) === on(path, form.get(path))).length;
    };
    return types.reduce((best, type) => (score(type) > score(best) ? type : best)).key;
}

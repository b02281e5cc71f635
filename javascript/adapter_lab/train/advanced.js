/** Every other setting, by section, with a search; only those that have an effect beside the others. */
import { fill, folded, h, setText, show } from "../kit/dom.js";
import { field } from "../kit/fields.js";
import { S } from "../kit/strings.js";

/** @param {import("../app.js").App} app @param {import("../server/form.js").Form} form */
export function advanced(app, form) {
    const search = h("input", { type: "search", placeholder: S.advanced.search, "aria-label": S.advanced.search });
    const onlySet = h("input", { type: "checkbox", id: "al-only-set" });
    const none = h("p", { class: "al-quiet", hidden: true }, S.advanced.nothing);
    const body = h("div");
    const toml = h("pre", { class: "al-log" });
    const element = folded(
        S.advanced.title,
        h("div", { class: "al-row al-search" }, search, h("label", { for: "al-only-set", class: "al-row" }, onlySet, S.advanced.onlySet)),
        body,
        none,
        folded(S.advanced.asFile, toml),
    );
    /** @type {{group: HTMLElement, fields: {element: HTMLElement, entry: any, words: string}[]}[]} */
    let groups = [];
    const filter = () => {
        const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
        let any = false;
        for (const { group, fields } of groups) {
            let shown = false;
            for (const { element: node, entry, words: text } of fields) {
                const found = words.every((word) => text.includes(word)) && (!onlySet.checked || entry.path in form.changed);
                node.classList.toggle("al-filtered", !found);
                shown ||= found && !node.hidden;
            }
            show(group, shown);
            any ||= shown;
        }
        show(none, !any);
    };
    const draw = () => {
        groups = app.store.schema.sections.map((section) => {
            const entries = section.settings.filter((entry) => !entry.basic);
            const fields = entries.map((entry) => ({
                element: field(form, entry.path, { wide: entry.type.startsWith("list[") && entry.type !== "list[float]" }),
                entry,
                words: `${entry.path} ${entry.label} ${entry.help} ${section.title}`.toLowerCase(),
            }));
            const group = h("section", { class: "al-section" }, h("h4", {}, section.title), h("p", { class: "al-help" }, section.help), h("div", { class: "al-grid" }, fields.map((one) => one.element)));
            return { group, fields };
        });
        fill(body, groups.map((one) => one.group));
        filter();
    };
    // A hundred fields are made when they are looked at first.
    element.addEventListener("toggle", () => element.open && !groups.length && draw());
    search.addEventListener("input", filter);
    onlySet.addEventListener("change", filter);
    form.on("resolved", () => {
        filter();
        setText(toml, form.resolved?.toml ?? "");
        const hidden = [...form.problems.keys()].some((path) => !form.settings.get(path)?.basic);
        if (hidden && !element.open) element.open = true;
    });
    return element;
}

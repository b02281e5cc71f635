/** The table of variants: tick, change, add by type, by preset, as a product. */
import { ask, attempt, say } from "../kit/dialog.js";
import { button, fill, folded, h } from "../kit/dom.js";
import { plain } from "../kit/format.js";
import { S, put } from "../kit/strings.js";

const ALGO = "network.algo";
/** Settings with a column of their own; all others of a row are in its last one. @type {[string, string, "number"|"check"][]} */
const COLUMNS = [
    ["network.dim", S.study.dim, "number"],
    ["network.alpha", S.study.alpha, "number"],
    ["network.conv_dim", S.study.convDim, "number"],
    ["network.factor", S.study.factor, "number"],
    ["network.train_te", S.study.textEncoder, "check"],
];
const SHOWN = new Set([ALGO, ...COLUMNS.map(([path]) => path)]);
const FROM_TRAIN = "";

/** @param {import("../app.js").App} app @param {import("./draft.js").StudyDraft} draft */
export function variantsPanel(app, draft) {
    const settings = draft.form.settings;
    const body = h("tbody");
    const all = h("input", { type: "checkbox", "aria-label": S.study.tickAll });
    all.addEventListener("change", () => {
        for (const row of draft.rows) row.on = all.checked;
        draw();
        draft.keep();
    });
    const head = [all, S.study.variant, S.study.type, ...COLUMNS.map(([, label]) => label), S.study.others, ""];
    const table = h("div", { class: "al-table al-variants" }, h("table", {}, h("caption", { class: "al-unseen" }, S.study.variants), h("thead", {}, h("tr", {}, head.map((cell) => h("th", { scope: "col" }, cell)))), body));

    function draw() {
        const back = focusPlace(body);
        // Later, since a change by Tab comes before the focus moves on.
        const redraw = () => requestAnimationFrame(draw);
        fill(body, draft.rows.map((row) => variantRow(draft, settings, row, redraw)));
        back();
        tick();
    }

    function tick() {
        const on = draft.rows.filter((row) => row.on).length;
        all.checked = on > 0 && on === draft.rows.length;
        all.indeterminate = on > 0 && on < draft.rows.length;
    }

    draft.on("rows", draw);
    draft.on("changed", tick);
    draw();
    return h("div", { class: "al-stack al-study-variants" }, presetButtons(app, draft), table, addBar(app, draft), productPart(app, draft));
}

/** Puts the focus back where it is now, once the table was drawn again. @param {HTMLElement} body */
function focusPlace(body) {
    const cell = document.activeElement?.closest("td");
    if (!cell || !body.contains(cell)) return () => {};
    const row = [...body.children].indexOf(cell.parentElement);
    const { cellIndex } = cell;
    return () => {
        const again = body.children[Math.min(row, body.children.length - 1)]?.children[cellIndex];
        /** @type {HTMLElement|null|undefined} */ (again?.querySelector("input, select, button"))?.focus();
    };
}

function variantRow(draft, settings, row, redraw) {
    const changed = () => {
        draft.values.edited = true;
        draft.keep();
    };
    const label = (what) => `${what}: ${row.name}`;
    const on = h("input", { type: "checkbox", checked: row.on, "aria-label": put(S.study.tick, row.name) });
    on.addEventListener("change", () => {
        row.on = on.checked;
        draft.keep();
    });
    const name = h("input", { type: "text", value: row.name, "aria-label": label(S.study.variant), class: "al-name" });
    name.addEventListener("input", () => {
        row.name = name.value.trim();
        changed();
    });
    const algo = h("select", { "aria-label": label(S.study.type) }, settings.get(ALGO).choices.map((choice) => h("option", { value: choice }, choice)));
    algo.value = row.settings[ALGO] ?? settings.get(ALGO).default;
    algo.addEventListener("change", () => {
        row.settings = fitting({ ...row.settings, [ALGO]: algo.value }, settings);
        changed();
        redraw();
    });
    const cells = COLUMNS.map(([path, title, kind]) => cell(settings.get(path), row, kind, label(title), changed));
    const others = h("input", { type: "text", spellcheck: "false", autocomplete: "off", value: asText(row.settings), "aria-label": label(S.study.others), placeholder: S.study.othersExample, class: "al-others" });
    others.addEventListener("change", () => {
        const kept = Object.fromEntries(Object.entries(row.settings).filter(([path]) => SHOWN.has(path)));
        row.settings = { ...kept, ...fromText(others.value) };
        changed();
        redraw();
    });
    const remove = button("×", () => draft.remove(row), { "aria-label": put(S.study.removeRow, row.name), title: put(S.study.removeRow, row.name) });
    return h("tr", { "data-variant": row.name }, [on, name, algo, ...cells, others, remove].map((content) => h("td", {}, content)));
}

function cell(setting, row, kind, label, changed) {
    const used = usedBy(setting, row.settings[ALGO] ?? "lora");
    if (kind === "check") {
        const input = h("input", { type: "checkbox", checked: Boolean(row.settings[setting.path]), "aria-label": label, disabled: !used });
        input.addEventListener("change", () => {
            setIn(row, setting, input.checked);
            changed();
        });
        return input;
    }
    const shown = row.settings[setting.path] ?? "";
    const input = h("input", { type: "text", inputmode: "decimal", autocomplete: "off", value: used ? String(shown) : "", placeholder: used ? plain(setting.default) : "–", "aria-label": label, disabled: !used, class: "al-short" });
    input.addEventListener("input", () => {
        const text = input.value.trim().replace(",", ".");
        const value = Number(text);
        setIn(row, setting, text === "" ? undefined : Number.isFinite(value) ? value : text);
        changed();
    });
    return input;
}

/** Set a setting of a row; one that is left at its default is not said. */
function setIn(row, setting, value) {
    if (value === undefined || value === setting.default) delete row.settings[setting.path];
    else row.settings[setting.path] = value;
}

/** Whether an algorithm uses a setting. */
function usedBy(setting, algo) {
    return !setting.algorithms?.length || setting.algorithms.includes(algo);
}

/** The settings that the algorithm among them uses. */
function fitting(values, settings) {
    return Object.fromEntries(Object.entries(values).filter(([path]) => path === ALGO || usedBy(settings.get(path) ?? {}, values[ALGO])));
}

/** Settings without a column as `network.dora = true, network.tucker = true`. */
function asText(values) {
    return Object.entries(values)
        .filter(([path]) => !SHOWN.has(path))
        .map(([path, value]) => `${path} = ${typeof value === "string" ? value : JSON.stringify(value)}`)
        .join(", ");
}

function fromText(text) {
    // Commas inside of a list do not end a setting.
    const parts = text.split(/,(?![^[]*\])/).map((part) => part.trim()).filter(Boolean);
    return Object.fromEntries(
        parts.map((part) => {
            const at = part.indexOf("=");
            const path = (at < 0 ? part : part.slice(0, at)).trim();
            return [path, at < 0 ? true : valueOf(part.slice(at + 1).trim())];
        }),
    );
}

/** The value that a text means: JSON where it is some, else the text itself. */
function valueOf(text) {
    try {
        return JSON.parse(text);
    } catch {
        return text;
    }
}

function presetButtons(app, draft) {
    const bar = h("div", { class: "al-row al-wrap", role: "group", "aria-label": S.study.presets });
    const use = async (preset) => {
        const sure = !draft.values.edited || (await ask({ title: put(S.study.replaceTitle, preset.title), text: S.study.replaceText, yes: S.study.replaceYes }));
        if (sure) draft.replace(preset.variants);
    };
    const load = () =>
        attempt(async () => {
            const presets = await app.api.get("/variants");
            fill(bar, h("span", { class: "al-inline" }, S.study.presets), presets.map((preset) => button(preset.title, () => use(preset), { title: preset.about, "data-preset": preset.name })));
            if (draft.values.rows === null) draft.replace(presets[0].variants);
        });
    load();
    return bar;
}

function addBar(app, draft) {
    const types = app.store.schema.types;
    const choice = h("select", { "aria-label": S.study.addType }, types.map((type) => h("option", { value: type.key }, type.title)), h("option", { value: FROM_TRAIN }, S.study.typeOfTrain));
    const add = () => {
        const type = types.find((entry) => entry.key === choice.value);
        draft.add([type ? { name: type.title, settings: type.settings } : ofTrain(draft.form)]);
    };
    return h("div", { class: "al-row al-wrap" }, h("label", { class: "al-inline" }, S.study.addType, choice), button(S.study.addRow, add, { id: "al-study-add" }));
}

/** What the Train tab would train, as a variant. */
function ofTrain(form) {
    const settings = Object.fromEntries(Object.entries(form.values()).filter(([path]) => path.startsWith("network.")));
    return { name: S.study.asTrain, settings };
}

function productPart(app, draft) {
    const algorithms = draft.form.settings.get(ALGO).choices;
    const boxes = algorithms.map((algo) => h("input", { type: "checkbox", value: algo, checked: algo === "lora" || algo === "lokr" }));
    const dims = h("input", { type: "text", inputmode: "numeric", value: "8, 16, 32" });
    const text = h("select", {}, Object.entries(S.study.textEncoders).map(([key, title]) => h("option", { value: key }, title)));
    const conv = h("input", { type: "checkbox" });
    const add = button(S.study.addProduct, () =>
        attempt(async () => {
            const numbers = dims.value.split(/[,;\s]+/).filter(Boolean).map(Number);
            if (!numbers.length || numbers.some((dim) => !Number.isInteger(dim))) return say(S.study.dimsWrong, "bad");
            const chosen = boxes.filter((box) => box.checked).map((box) => box.value);
            const made = await app.api.post("/variants", { algorithms: chosen, dims: numbers, text_encoders: text.value, convolutions: conv.checked });
            draft.add(made.variants);
        }),
    );
    return folded(
        S.study.product,
        h("p", { class: "al-help" }, S.study.productText),
        h("div", { class: "al-row al-wrap", role: "group", "aria-label": S.study.type }, algorithms.map((algo, index) => h("label", { class: "al-inline" }, boxes[index], algo))),
        h("div", { class: "al-row al-wrap" }, h("label", { class: "al-inline" }, S.study.dims, dims), h("label", { class: "al-inline" }, S.study.textEncoder, text), h("label", { class: "al-inline" }, conv, S.study.convolutions), add),
    );
}

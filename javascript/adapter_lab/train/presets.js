/** Presets by base and memory, recipes, own presets, and settings of kohya's files. */
import { importDialog } from "./importing.js";
import { ask, attempt, say } from "../kit/dialog.js";
import { button, fill, h } from "../kit/dom.js";
import { S, put } from "../kit/strings.js";

/** What a person chose about their run rather than about the recipe stays when a preset is applied. */
const KEPT = ["base.checkpoint", "base.vae", "base.text_encoder", "dataset.folder", "dataset.trigger", "run.name", "run.output_folder", "preview.prompts"];

/** @param {import("../app.js").App} app @param {import("../server/form.js").Form} form */
export function presetBar(app, form) {
    const { families, tiers } = app.store.schema;
    const base = h("select", { "aria-label": S.presets.base }, families.map(({ key, title }) => h("option", { value: key }, title)));
    const memory = h("select", { "aria-label": S.presets.memory }, tiers.map((tier) => h("option", { value: tier }, `${tier} GB`)));
    const preset = h("select", { "aria-label": S.presets.preset });
    const about = h("p", { class: "al-help al-grow" });
    base.value = "sdxl";
    memory.value = tierOf(app.store.status.device, tiers);
    let known = [];
    const chosen = () => known.find((entry) => entry.name === preset.value);

    const draw = () => {
        const grid = known.filter((entry) => !entry.own && entry.base === base.value && entry.memory_gb === Number(memory.value));
        const recipes = known.filter((entry) => !entry.own && isRecipe(entry));
        const own = known.filter((entry) => entry.own);
        const before = preset.value;
        const options = (entries) => entries.map((entry) => h("option", { value: entry.name }, entry.title));
        fill(
            preset,
            options(grid.filter((entry) => !isRecipe(entry))),
            recipes.length > 0 && h("optgroup", { label: S.presets.recipes }, options(recipes)),
            own.length > 0 && h("optgroup", { label: S.presets.own }, options(own)),
        );
        if (known.some((entry) => entry.name === before)) preset.value = before;
        if (!preset.value) preset.selectedIndex = 0;
        explain();
    };
    const explain = () => {
        fill(about, chosen()?.about ?? "");
        remove.hidden = !chosen()?.own;
    };
    const load = async () => {
        known = await app.api.get("/presets").catch(() => []);
        draw();
    };

    const apply = button(S.presets.apply, () => {
        const entry = chosen();
        if (!entry) return;
        // The family is read from the chosen checkpoint; a preset's would only contradict it.
        const { "base.family": family, ...settings } = entry.settings;
        form.replace(form.get("base.checkpoint") ? settings : entry.settings, KEPT);
        say(put(S.presets.applied, entry.title));
    });
    const save = button(S.presets.save, async () => {
        const settings = Object.fromEntries(Object.entries(form.values()).filter(([path]) => !KEPT.includes(path)));
        const name = h("input", { type: "text", required: true, maxlength: "60", "aria-label": S.presets.name });
        const given = await ask({ title: S.presets.saveTitle, text: S.presets.saveText, yes: S.presets.saveYes, content: name, result: () => name.value.trim() });
        if (!given) return;
        await attempt(async () => {
            await app.api.put(`/presets/${encodeURIComponent(given)}`, { settings });
            await load();
            preset.value = given;
            explain();
            say(put(S.presets.saved, given));
        });
    });
    const remove = button(S.presets.remove, async () => {
        const name = chosen().name;
        if (!(await ask({ title: put(S.presets.removeTitle, name), yes: S.presets.remove, danger: true }))) return;
        await attempt(async () => {
            await app.api.delete(`/presets/${encodeURIComponent(name)}`);
            await load();
        });
    });
    const restart = button(S.presets.clear, () => form.replace(form.start, KEPT));
    for (const select of [base, memory]) select.addEventListener("change", draw);
    preset.addEventListener("change", explain);
    load();
    const labelled = (text, control, more = "") => h("label", { class: `al-inline ${more}` }, h("span", {}, text), control);
    return h(
        "section",
        { class: "al-card al-presets", "aria-label": S.presets.title },
        h(
            "div",
            { class: "al-row al-wrap" },
            labelled(S.presets.base, base),
            labelled(S.presets.memory, memory),
            labelled(S.presets.preset, preset, "al-preset"),
            apply,
            remove,
        ),
        h("div", { class: "al-row al-wrap" }, about, save, button(S.presets.importKohya, () => importDialog(app, form)), restart),
    );
}

/** A preset that is no point of the grid of bases, types and memory. */
function isRecipe(entry) {
    return !entry.type || !entry.memory_gb || entry.name.startsWith("study");
}

/** The largest tier that the card has. */
function tierOf(device, tiers) {
    const gigabytes = Math.round((device?.total_bytes ?? 0) / 2 ** 30);
    return [...tiers].reverse().find((tier) => tier <= gigabytes) ?? tiers[1] ?? tiers[0];
}

/** The Study tab: many variants on one folder and base at equal budget, and what they came to. */
import { baseControl } from "../train/base.js";
import { card, folded, h, show } from "../kit/dom.js";
import { field } from "../kit/fields.js";
import { S } from "../kit/strings.js";
import { studiesPanel } from "./studies.js";
import { StudyDraft } from "./draft.js";
import { planPanel } from "./plan.js";
import { variantsPanel } from "./variants.js";

let numbered = 0;

/** @param {import("../app.js").App} app */
export function studyView(app) {
    const form = app.views.train.form;
    const draft = new StudyDraft(form);
    // Not while a name is being typed that only begins like another.
    const studies = studiesPanel(app, (ids) => /** @type {HTMLElement|null} */ (document.activeElement)?.dataset.study !== "name" && draft.avoid(ids));
    const plan = planPanel(app, draft, (id) => studies.open(id));
    const main = h(
        "div",
        { class: "al-main" },
        card(
            S.study.shared,
            field(form, "dataset.folder", { always: true, wide: true }),
            field(form, "base.checkpoint", { control: baseControl(app, form), always: true, wide: true }),
            h("p", { class: "al-help" }, S.study.sharedText),
        ),
        card(S.study.variants, h("p", { class: "al-help" }, S.study.variantsText), variantsPanel(app, draft)),
        card(S.study.budget, budget(draft)),
        raceAndScores(draft),
        card(S.study.plan, plan.rows),
    );
    const side = h(
        "aside",
        { class: "al-side al-card", "aria-label": S.summary.title },
        h("h3", {}, S.summary.title),
        h("div", { class: "al-actions" }, plan.start), // above what comes and goes, as in Train
        plan.facts,
        plan.remarks,
        plan.problem,
    );
    return {
        element: h("div", { class: "al-view" }, studies.element, h("h3", {}, S.study.make), h("div", { class: "al-columns" }, main, side)),
        shown: () => {
            studies.shown();
            plan.shown();
        },
        hidden: () => {
            studies.hidden();
            plan.hidden();
        },
    };
}

function budget(draft) {
    const unit = choice(draft, "unit", S.study.unit, S.study.units, S.study.unitHelp);
    return h(
        "div",
        { class: "al-grid" },
        text(draft, "name", S.study.name, S.study.nameHelp),
        unit,
        numeric(draft, "amount", S.study.amount, S.study.amountHelp),
        numeric(draft, "points", S.study.points, S.study.pointsHelp),
        text(draft, "seeds", S.study.seeds, S.study.seedsHelp),
        numeric(draft, "parameters", S.study.sameSize, S.study.sameSizeHelp),
        field(draft.form, "dataset.validation_fraction", { always: true }),
        area(draft, "prompts", S.study.prompts, S.study.promptsHelp),
    );
}

function raceAndScores(draft) {
    const race = check(draft, "race", S.study.race, S.study.raceHelp);
    const details = h("div", { class: "al-grid" }, choice(draft, "metric", S.study.metric, S.study.metrics, ""), numeric(draft, "confidence", S.study.confidence, S.study.confidenceHelp));
    const refresh = () => show(details, draft.values.race);
    draft.on("changed", refresh);
    refresh();
    const scorers = Object.entries(S.study.scorers).map(([key, [title, help]]) => scorer(draft, key, title, help));
    return h("div", { class: "al-card" }, race, details, folded(S.study.scores, h("p", { class: "al-help" }, S.study.scoresText), h("div", { class: "al-grid" }, scorers)));
}

// Controls of the draft

/** A labelled control. @param {string} name @param {HTMLElement} input @param {string} label @param {string} help */
function labelled(name, input, label, help, wide = false) {
    input.id = `al-study-${name}-${++numbered}`;
    input.dataset.study = name;
    const about = help && h("div", { class: "al-help", id: `${input.id}-help` }, help);
    if (help) input.setAttribute("aria-describedby", `${input.id}-help`);
    return h("div", { class: `al-field ${wide ? "al-wide" : ""}` }, h("label", { class: "al-label", for: input.id }, label), input, about);
}

function text(draft, name, label, help) {
    const input = h("input", { type: "text", spellcheck: "false", autocomplete: "off", value: String(draft.values[name]) });
    input.addEventListener("input", () => draft.set(name, input.value));
    draft.on("changed", () => document.activeElement !== input && (input.value = String(draft.values[name])));
    return labelled(name, input, label, help);
}

function numeric(draft, name, label, help) {
    const input = h("input", { type: "text", inputmode: "decimal", autocomplete: "off", value: String(draft.values[name]) });
    input.addEventListener("input", () => {
        const value = Number(input.value.trim().replace(",", "."));
        // What is no number goes to the server as it is, whose sentence then says so.
        draft.set(name, Number.isFinite(value) && input.value.trim() ? value : input.value.trim());
    });
    return labelled(name, input, label, help);
}

function choice(draft, name, label, options, help) {
    const input = h("select", {}, Object.entries(options).map(([key, title]) => h("option", { value: key }, title)));
    input.value = draft.values[name];
    input.addEventListener("change", () => draft.set(name, input.value));
    return labelled(name, input, label, help);
}

function area(draft, name, label, help) {
    const input = h("textarea", { rows: "3", spellcheck: "false", placeholder: S.form.onePerLine, value: draft.values[name] });
    input.addEventListener("input", () => draft.set(name, input.value));
    return labelled(name, input, label, help, true);
}

function check(draft, name, label, help) {
    const input = h("input", { type: "checkbox", id: `al-study-${name}`, checked: draft.values[name], "aria-describedby": `al-study-${name}-help` });
    input.addEventListener("change", () => draft.set(name, input.checked));
    return h("div", { class: "al-field al-check" }, h("div", { class: "al-check-row" }, input, h("label", { class: "al-label", for: input.id }, label)), h("div", { class: "al-help", id: `al-study-${name}-help` }, help));
}

function scorer(draft, key, label, help) {
    const input = h("input", { type: "text", spellcheck: "false", autocomplete: "off", value: draft.values.scorers[key] ?? "" });
    input.addEventListener("input", () => draft.set("scorers", { ...draft.values.scorers, [key]: input.value }));
    return labelled(key, input, label, help);
}

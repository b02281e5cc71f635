/** The Train tab: images, base, type, the settings that matter, everything else folded away, and what a run will cost. */
import { adapterTypes } from "./types.js";
import { advanced } from "./advanced.js";
import { baseControl } from "./base.js";
import { datasetPanel } from "./dataset.js";
import { card, h } from "../kit/dom.js";
import { field } from "../kit/fields.js";
import { Form } from "../server/form.js";
import { NameProposal } from "./naming.js";
import { presetBar } from "./presets.js";
import { recentFolders } from "./recent.js";
import { S } from "../kit/strings.js";
import { summary } from "./summary.js";

/** Which card shows which setting; a basic setting that is in none of them joins the training card. */
const CARDS = {
    pictures: ["dataset.folder", "dataset.trigger", "dataset.resolution"],
    base: ["base.checkpoint"],
    type: ["network.algo", "network.dim", "network.alpha", "network.conv_dim", "network.factor"],
    training: ["run.name", "run.steps", "run.batch_size", "optimizer.name", "optimizer.lr", "network.train_te", "precision.base_weights", "save.every_steps"],
    samples: ["preview.prompts"],
};

/**
 * @param {import("../app.js").App} app
 * @returns {{element: HTMLElement, form: Form, shown: () => void}}
 */
export function trainView(app) {
    const form = new Form(app.api, app.store.schema);
    const fields = (name) => h("div", { class: "al-grid" }, inCard(form, name).map((path) => field(form, path)));
    const folder = recentFolders(field(form, "dataset.folder", { always: true, wide: true }));
    const dataset = datasetPanel(app, form);
    const naming = new NameProposal(app, form);
    const main = h(
        "div",
        { class: "al-main" },
        presetBar(app, form),
        card(
            S.train.pictures,
            folder.element,
            dataset.element,
            h("div", { class: "al-grid" }, ["dataset.trigger", "dataset.resolution"].map((path) => field(form, path))),
        ),
        card(S.train.base, field(form, "base.checkpoint", { control: baseControl(app, form), always: true, wide: true })),
        card(
            S.train.type,
            adapterTypes(app, form),
            h("div", { class: "al-grid al-4" }, CARDS.type.slice(1).map((path) => field(form, path))),
        ),
        card(S.train.training, fields("training")),
        card(S.train.samples, field(form, "preview.prompts", { wide: true })),
        advanced(app, form),
    );
    const side = summary(app, form, dataset, () => folder.remember());
    form.resolve();
    return {
        element: h("div", { class: "al-columns" }, main, side.element),
        form,
        shown: () => {
            naming.refresh();
            side.shown();
        },
    };
}

/** @param {Form} form @param {string} name @returns {string[]} */
function inCard(form, name) {
    if (name !== "training") return CARDS[name];
    const placed = Object.values(CARDS).flat();
    const others = [...form.settings.values()].filter((entry) => entry.basic && !placed.includes(entry.path));
    return [...CARDS.training, ...others.map((entry) => entry.path)];
}

/** Parts of the Running tab that change with a run's details. */
import { attempt, say } from "../kit/dialog.js";
import { button, card, fill, folded, h, setText, show } from "../kit/dom.js";
import { fileName, number, plain, size } from "../kit/format.js";
import { LIVING } from "../server/store.js";
import { S, put } from "../kit/strings.js";

const WORST = 12;
const LOG_LINES = 200;
const LOG_EVERY_MS = 3000;

/** The images with the highest loss, beside their captions. @param {import("../app.js").App} app */
export function picturesPanel(app) {
    const list = h("div", { class: "al-worst" });
    const none = h("p", { class: "al-quiet" }, S.running.noPictures);
    const element = card(S.running.pictures, h("p", { class: "al-help" }, S.running.picturesText), none, list);
    const load = (detail) => {
        const worst = (detail.pictures ?? []).slice(0, WORST);
        show(none, !worst.length);
        fill(
            list,
            worst.map((picture) => {
                const path = picture.path ?? picture.picture;
                const src = app.api.url(`/runs/${encodeURIComponent(detail.id)}/picture`, { path });
                return h(
                    "figure",
                    { class: picture.not_learned ? "al-not-learned" : "" },
                    h("img", { src, alt: fileName(path), loading: "lazy" }),
                    h("figcaption", {}, h("b", {}, number(picture.relative_loss)), h("span", { class: "al-quiet" }, put(S.running.visits, picture.visits)), h("code", {}, fileName(path)), h("span", {}, picture.caption || S.dataset.noCaption)),
                );
            }),
        );
    };
    return { element, load };
}

/** The adapter files so far. @param {import("../app.js").App} app */
export function savedPanel(app) {
    const list = h("ul", { class: "al-list al-saved" });
    const element = card(S.running.adapters, list);
    let drawn = "";
    const summary = (run) => {
        const files = [...(run.adapters ?? [])].reverse();
        const key = JSON.stringify(files);
        show(element, files.length > 0);
        if (key === drawn) return;
        drawn = key;
        fill(
            list,
            files.map((file) =>
                h("li", { class: "al-row", title: file.path }, h("code", {}, fileName(file.path)), h("span", { class: "al-quiet" }, `${put(S.runs.steps, file.step)} · ${size(file.bytes)}`), h("span", { class: "al-grow" }), h("a", { href: app.api.url("/files/download", { path: file.path }), download: fileName(file.path) }, S.running.download)),
            ),
        );
    };
    return { element, summary };
}

/** The prompts of the next samples. @param {import("../app.js").App} app */
export function promptsPanel(app) {
    const input = h("textarea", { rows: "3", "aria-label": S.running.prompts, placeholder: S.form.onePerLine });
    let id = "";
    const use = button(S.running.promptsUse, () =>
        attempt(async () => {
            const prompts = input.value.split("\n").map((line) => line.trim()).filter(Boolean);
            await app.api.put(`/runs/${encodeURIComponent(id)}/prompts`, { prompts });
            say(S.running.promptsDone);
        }),
    );
    const element = folded(S.running.prompts, input, use);
    return {
        element,
        summary: (run) => show(element, LIVING.includes(run.state)),
        load: (detail) => {
            if (id === detail.id) return;
            id = detail.id;
            input.value = (detail.prompts ?? []).join("\n");
        },
    };
}

/** The end of the log and the settings, read while they are open. @param {import("../app.js").App} app */
export function logPanel(app) {
    const text = h("pre", { class: "al-log", tabindex: "0" });
    const settings = h("div");
    const log = folded(S.running.log, text);
    let id = "";
    const read = async () => {
        if (!log.open || !id || log.offsetParent === null) return;
        const answer = await app.api.get(`/runs/${encodeURIComponent(id)}/log`, { lines: LOG_LINES }).catch(() => null);
        if (answer === null) return;
        const below = text.scrollTop + text.clientHeight >= text.scrollHeight - 20;
        setText(text, answer.text);
        if (below) text.scrollTop = text.scrollHeight;
    };
    log.addEventListener("toggle", read);
    setInterval(read, LOG_EVERY_MS);
    const load = (detail) => {
        id = detail.id;
        read();
        const notes = (detail.messages ?? []).map((note) => h("p", { class: "al-help" }, note.message));
        const sections = Object.entries(detail.config ?? {}).map(([section, values]) =>
            h("div", {}, h("h4", {}, section), Object.entries(values).map(([name, value]) => h("div", { class: "al-pair" }, h("span", {}, name), h("span", {}, plain(value))))),
        );
        fill(settings, notes, h("div", { class: "al-settings" }, sections));
    };
    return { element: h("div", { class: "al-card" }, log, folded(S.running.settings, settings)), load };
}

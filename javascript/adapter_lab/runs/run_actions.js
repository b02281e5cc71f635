/** What can be done with a run that does not train: go on, delete, open its folder, use its adapter. */
import { ask, attempt, say } from "../kit/dialog.js";
import { h } from "../kit/dom.js";
import { sendToPlot, sendToPrompt } from "../server/host.js";
import { S, put } from "../kit/strings.js";

/** @param {import("../app.js").App} app @param {import("../server/store.js").RunSummary} run */
export async function resumeDialog(app, run) {
    const done = run.total_steps > 0 && run.step >= run.total_steps;
    const steps = h("input", { type: "number", min: String((run.step ?? 0) + 1), step: "1", id: "al-resume-steps", value: String(done ? run.total_steps * 2 : run.total_steps || "") });
    const changed = h("input", { type: "checkbox", id: "al-resume-changed" });
    const given = await ask({
        title: put(S.runs.resumeTitle, run.name),
        text: put(S.runs.resumeText, run.step ?? 0),
        yes: S.running.resume,
        content: h(
            "div",
            { class: "al-field" },
            h("label", { class: "al-label", for: "al-resume-steps" }, S.runs.resumeSteps),
            steps,
            h("label", { class: "al-row", for: changed.id }, changed, S.runs.resumeChanged),
        ),
        result: () => ({ steps: Number(steps.value) || 0, changed: changed.checked }),
    });
    if (!given) return;
    const settings = given.steps && given.steps !== run.total_steps ? { "run.steps": given.steps } : {};
    await attempt(async () => {
        const when = app.store.busy() ? "queue" : "now";
        await app.api.post(`/runs/${encodeURIComponent(run.id)}/resume`, { settings, when, accept_pictures: given.changed });
        await app.store.refresh();
        say(when === "now" ? S.runs.resumed : S.summary.queued);
        app.openRun(run.id);
    });
}

/** @param {import("../app.js").App} app @param {import("../server/store.js").RunSummary} run */
export async function removeDialog(app, run) {
    const adapters = h("input", { type: "checkbox", id: "al-remove-adapters" });
    const given = await ask({
        title: put(S.runs.removeTitle, run.name),
        text: S.runs.removeText,
        yes: S.runs.remove,
        danger: true,
        content: run.adapters?.length > 0 && h("label", { class: "al-row", for: adapters.id }, adapters, S.runs.removeAdapters),
        result: () => ({ adapters: adapters.checked }),
    });
    if (!given) return;
    await attempt(async () => {
        await app.api.delete(`/runs/${encodeURIComponent(run.id)}`, { adapters: given.adapters });
        await app.store.refresh();
        say(S.runs.removed);
    });
}

/** @param {import("../app.js").App} app @param {import("../server/store.js").RunSummary} run */
export function openFolder(app, run) {
    return attempt(() => app.api.post(`/runs/${encodeURIComponent(run.id)}/open-folder`));
}

/** @param {string} tag */
export async function copyTag(tag) {
    try {
        await navigator.clipboard.writeText(tag);
    } catch {
        // Browsers refuse the clipboard on plain http from another machine; a selected text field still copies.
        const input = h("textarea", { class: "al-hidden-text", value: tag });
        document.getElementById("adapter_lab").append(input);
        input.select();
        document.execCommand("copy");
        input.remove();
    }
    say(put(S.runs.copied, tag));
}

/** @param {string} tag */
export function sendTag(tag) {
    sendToPrompt(tag);
    say(S.runs.sent);
}

/** @param {import("../app.js").App} app @param {import("../server/store.js").RunSummary} run */
export function sendPlot(app, run) {
    return attempt(async () => {
        const plot = await app.api.get(`/runs/${encodeURIComponent(run.id)}/plot`);
        sendToPlot(plot.infotext);
        say(S.runs.plotSent);
    });
}

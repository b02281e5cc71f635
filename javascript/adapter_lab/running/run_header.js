/** The head of a run: state, progress, numbers, warnings, and what can be done with it. */
import { ask, attempt, say } from "../kit/dialog.js";
import { button, fill, h, setText, show } from "../kit/dom.js";
import { duration, number, size } from "../kit/format.js";
import { hasPlot } from "../server/host.js";
import { resumeDialog, sendPlot } from "../runs/run_actions.js";
import { LIVING } from "../server/store.js";
import { S, put } from "../kit/strings.js";

/** Key, label, and what a run says there. @type {[string, string, (run: import("../server/store.js").RunSummary) => string][]} */
const FACTS = [
    ["step", S.running.step, (run) => (run.total_steps ? `${run.step} / ${run.total_steps}` : String(run.step ?? 0))],
    ["speed", S.running.perStep, (run) => number(run.seconds_per_step)],
    ["eta", S.running.eta, (run) => duration(run.eta_seconds)],
    ["loss", S.running.loss, (run) => number(run.loss)],
    ["memory", S.running.memory, (run) => size(run.memory_bytes)],
    ["peak", S.running.peak, (run) => size(run.peak_bytes)],
];

export class RunHeader {
    /** @param {import("../app.js").App} app */
    constructor(app) {
        this.app = app;
        this.run = null;
        this.name = h("h3");
        this.state = h("span", { class: "al-chip al-state", id: "al-state" });
        this.algo = h("span", { class: "al-chip" });
        this.bar = h("div");
        this.progress = h("div", { class: "al-progress", role: "progressbar", "aria-label": S.running.progress, "aria-valuemin": "0", "aria-valuemax": "100" }, this.bar);
        this.facts = new Map(FACTS.map(([key]) => [key, h("b", { id: `al-fact-${key}` })]));
        this.message = h("p", { class: "al-help", role: "status" });
        this.warnings = h("div", { role: "status" });
        this.actions = this.#buttons();
        this.element = h(
            "section",
            { class: "al-card al-run-header", "aria-label": S.running.progress },
            h("div", { class: "al-row al-wrap" }, this.name, this.algo, this.state, h("span", { class: "al-grow" }), Object.values(this.actions)),
            this.progress,
            h("div", { class: "al-facts" }, FACTS.map(([key, label]) => h("div", { class: "al-fact" }, this.facts.get(key), h("span", {}, label)))),
            this.message,
            this.warnings,
        );
    }

    #buttons() {
        const post = (what, body = {}, done = S.running.asked) =>
            attempt(async () => {
                await this.app.api.post(`/runs/${encodeURIComponent(this.run.id)}/${what}`, body);
                say(done);
            });
        const stopNow = async () => {
            const sure = await ask({ title: S.running.stopNowTitle, text: S.running.stopNowText, yes: S.running.stopNow, danger: true });
            if (sure) await post("stop", { how: "now" });
        };
        return {
            stop: button(S.running.stopSave, () => post("stop", { how: "save" }), { kind: "primary", id: "al-stop-save" }),
            save: button(S.running.saveNow, () => post("save")),
            sample: button(S.running.sampleNow, () => post("sample")),
            now: button(S.running.stopNow, stopNow, { kind: "danger" }),
            plot: button(S.runs.plot, () => sendPlot(this.app, this.run), { id: "al-plot" }),
            resume: button(S.runs.resume, () => resumeDialog(this.app, this.run), { kind: "primary", id: "al-resume" }),
        };
    }

    /** @param {import("../server/store.js").RunSummary} run */
    draw(run) {
        const changed = this.run?.id !== run.id || this.run?.state !== run.state;
        this.run = run;
        if (changed) this.preparing = "";
        setText(this.name, run.name);
        setText(this.algo, run.algo);
        setText(this.state, S.states[run.state] ?? run.state);
        this.state.dataset.state = run.state;
        const percent = Math.round(100 * (run.progress ?? 0));
        this.progress.setAttribute("aria-valuenow", String(percent));
        this.progress.setAttribute("aria-valuetext", `${percent}%`);
        this.bar.style.width = `${100 * (run.progress ?? 0)}%`;
        for (const [key, , text] of FACTS) setText(this.facts.get(key), text(run));
        this.#say();
        const key = (run.warnings ?? []).join("\n");
        if (key !== this.warned) {
            this.warned = key;
            fill(this.warnings, (run.warnings ?? []).map((text) => h("p", { class: "al-warning" }, text)));
        }
        const living = LIVING.includes(run.state);
        for (const name of ["stop", "save", "sample", "now"]) show(this.actions[name], living);
        show(this.actions.plot, (run.adapters?.length ?? 0) > 0 && hasPlot());
        show(this.actions.resume, !living && run.state !== "queued");
    }

    /** What an event changes before the next summary. @param {any} event */
    event(event) {
        this.preparing = event.event === "preparing" ? put(S.running.preparing, event.what, event.done, event.total) : "";
        this.#say();
        if (event.event !== "step" || !this.run?.total_steps) return;
        setText(this.facts.get("step"), `${event.step} / ${this.run.total_steps}`);
        this.bar.style.width = `${100 * event.progress}%`;
    }

    #say() {
        setText(this.message, this.preparing || this.run?.message || "");
        this.message.classList.toggle("al-problem", this.run?.state === "failed" || this.run?.state === "killed");
    }
}

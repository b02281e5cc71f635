/** The Runs tab: every run, what can be done with it, and comparison of several. */
import { Chart } from "../kit/charts.js";
import { attempt } from "../kit/dialog.js";
import { button, card, fill, h, setText, show, table } from "../kit/dom.js";
import { moment, number, plain, size } from "../kit/format.js";
import { hasPlot, hasPrompt } from "../server/host.js";
import { copyTag, openFolder, removeDialog, resumeDialog, sendPlot, sendTag } from "./run_actions.js";
import { LIVING } from "../server/store.js";
import { S, put } from "../kit/strings.js";

const COLORS = ["--al-line-1", "--al-line-2", "--al-line-3", "--al-line-4", "--al-line-5", "--al-line-6"];

/** @param {import("../app.js").App} app */
export function runsView(app) {
    const filter = h("input", { type: "search", placeholder: S.runs.filter, "aria-label": S.runs.filter });
    const list = h("div", { class: "al-runs" });
    const none = h("p", { class: "al-quiet" }, S.runs.none);
    const comparison = new Comparison(app);
    const rows = new Map();
    let visible = false;

    function draw() {
        if (!visible) return;
        const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
        const runs = app.store.sorted().filter((run) => words.every((word) => `${run.name} ${run.algo} ${S.states[run.state]}`.toLowerCase().includes(word)));
        const order = runs.map((run) => run.id).join("|");
        for (const run of runs) {
            if (!rows.has(run.id)) rows.set(run.id, new Row(app, run, comparison));
            rows.get(run.id).draw(run);
        }
        if (order !== list.dataset.order) {
            list.dataset.order = order;
            fill(list, runs.map((run) => rows.get(run.id).element));
        }
        show(none, runs.length === 0);
    }

    filter.addEventListener("input", draw);
    app.store.on("runs", draw);
    return {
        element: h("div", { class: "al-view" }, h("div", { class: "al-row al-search" }, filter), none, list, comparison.element),
        shown: () => {
            visible = true;
            draw();
        },
        hidden: () => (visible = false),
    };
}

class Row {
    constructor(app, run, comparison) {
        this.app = app;
        this.run = run;
        const now = () => this.run;
        const tick = h("input", { type: "checkbox", "aria-label": put(S.runs.select, run.name) });
        tick.addEventListener("change", () => comparison.tick(this.run.id, tick.checked));
        this.thumbnail = h("div", { class: "al-run-picture" });
        this.facts = h("span", { class: "al-quiet" });
        this.state = h("span", { class: "al-chip al-state" });
        this.message = h("p", { class: "al-help" });
        this.tag = h("code");
        this.actions = {
            open: button(S.runs.open, () => app.openRun(run.id)),
            resume: button(S.runs.resume, () => resumeDialog(app, now())),
            copy: button(S.runs.copyTag, () => copyTag(now().tag)),
            send: button(S.runs.send, () => sendTag(now().tag)),
            plot: button(S.runs.plot, () => sendPlot(app, now())),
            folder: button(S.runs.openFolder, () => openFolder(app, now())),
            remove: button(S.runs.remove, () => removeDialog(app, now())),
        };
        this.element = h(
            "article",
            { class: "al-run", "aria-label": run.name, "data-run": run.id },
            tick,
            this.thumbnail,
            h("div", { class: "al-run-text" }, h("div", { class: "al-row al-wrap" }, h("b", {}, run.name), h("span", { class: "al-chip" }, run.algo), this.state, this.tag), this.facts, this.message),
            h("div", { class: "al-run-actions" }, Object.values(this.actions)),
        );
    }

    draw(run) {
        this.run = run;
        setText(this.state, S.states[run.state] ?? run.state);
        this.state.dataset.state = run.state;
        const bytes = run.adapters?.at(-1)?.bytes;
        setText(this.facts, [moment(run.started_at), `${run.step ?? 0} / ${run.total_steps || "∞"}`, `${S.running.loss} ${number(run.loss)}`, `${number(run.seconds_per_step)} ${S.running.perStep}`, bytes && size(bytes)].filter(Boolean).join(" · "));
        setText(this.message, run.message ?? "");
        this.message.classList.toggle("al-problem", run.state === "failed");
        const has = (run.adapters?.length ?? 0) > 0;
        setText(this.tag, has ? run.tag : "");
        if (run.thumbnail !== this.shown) {
            this.shown = run.thumbnail;
            const src = run.thumbnail && this.app.api.url(`/runs/${encodeURIComponent(run.id)}/samples/${encodeURIComponent(run.thumbnail)}`);
            fill(this.thumbnail, src && h("img", { src, alt: "", loading: "lazy" }));
        }
        const living = LIVING.includes(run.state);
        show(this.actions.resume, !living && run.state !== "queued");
        show(this.actions.remove, !living && run.state !== "queued");
        show(this.actions.copy, has);
        show(this.actions.send, has && hasPrompt());
        show(this.actions.plot, has && hasPlot());
    }
}

/** Loss curves of the ticked runs over each other; of two, also the settings that differ. */
class Comparison {
    constructor(app) {
        this.app = app;
        this.ids = [];
        this.help = h("p", { class: "al-help" }, S.runs.compareHelp);
        this.chart = new Chart(S.runs.curves, S.runs.compareHelp, { format: number, height: 280 });
        this.diff = h("div");
        this.element = card(S.runs.compare, this.help, this.chart.element, this.diff);
        show(this.chart.element, false);
    }

    tick(id, on) {
        this.ids = on ? [...this.ids, id] : this.ids.filter((other) => other !== id);
        this.#draw();
    }

    async #draw() {
        const ids = this.ids;
        show(this.help, ids.length === 0);
        show(this.chart.element, ids.length > 0);
        fill(this.diff);
        await attempt(async () => {
            const read = await Promise.all(ids.map((id) => this.app.api.get(`/runs/${encodeURIComponent(id)}/series`, { points: 500 })));
            if (ids !== this.ids) return;
            this.#curves(ids, read);
            if (ids.length === 2) await this.#settings([ids[0], ids[1]]);
        });
    }

    #curves(ids, read) {
        const steps = [...new Set(read.flatMap((series) => series.steps))].sort((a, b) => a - b);
        const data = read.map((series) => {
            const at = new Map(series.columns.smooth.mean.map((value, index) => [series.steps[index], value]));
            return steps.map((step) => at.get(step) ?? null);
        });
        const lines = ids.map((id, index) => ({ label: this.#name(id), color: COLORS[index % COLORS.length], width: 2, dash: index >= COLORS.length ? [6, 4] : undefined }));
        this.chart.draw(lines, [steps, ...data]);
    }

    async #settings([left, right]) {
        const rows = await this.app.api.get(`/runs/${encodeURIComponent(left)}/diff/${encodeURIComponent(right)}`);
        if (this.ids[0] !== left || this.ids[1] !== right) return;
        fill(
            this.diff,
            rows.length === 0
                ? h("p", { class: "al-help" }, S.runs.same)
                : table([S.runs.setting, this.#name(left), this.#name(right)], rows.map((row) => [h("code", {}, row.setting), plain(row.left), plain(row.right)]), S.runs.diff),
        );
    }

    #name(id) {
        const run = this.app.store.runs.get(id);
        const names = [...this.app.store.runs.values()].filter((other) => other.name === run?.name);
        return run && names.length === 1 ? run.name : id;
    }
}

/** The Running tab: one run, live: progress, charts, samples, images with the highest loss, log; and the queue. */
import { attempt } from "../kit/dialog.js";
import { card, fill, h, show } from "../kit/dom.js";
import { Curves } from "./curves.js";
import { RunHeader } from "./run_header.js";
import { logPanel, picturesPanel, promptsPanel, savedPanel } from "./run_panels.js";
import { queuePanel } from "./queue.js";
import { Samples } from "./samples.js";
import { Series } from "../server/series.js";
import { LIVING } from "../server/store.js";
import { S } from "../kit/strings.js";

const OPENED = "adapter-lab-run";
/** Events after which the run's details are read again. */
const CHANGES = ["sample", "saved", "finished", "failed", "validation", "resumed", "dataset", "note", "warning"];

/** @param {import("../app.js").App} app */
export function runningView(app) {
    return new Running(app);
}

class Running {
    constructor(app) {
        this.app = app;
        this.id = sessionStorage.getItem(OPENED) ?? "";
        this.detail = null;
        this.series = new Series();
        this.curves = new Curves(this.series);
        this.samples = new Samples(app);
        this.header = new RunHeader(app);
        this.panels = [picturesPanel(app), savedPanel(app), promptsPanel(app), logPanel(app)];
        this.choice = h("select", { "aria-label": S.running.run });
        this.choice.addEventListener("change", () => this.open(this.choice.value));
        this.stream = null;
        this.visible = false;
        this.watched = false;
        this.byHand = false; // whether a person has opened a run that does not train
        this.#lay();
        app.store.on("runs", () => this.#summaries());
        this.shown = () => this.#show(true);
        this.hidden = () => this.#show(false);
    }

    #lay() {
        const [pictures, saved, prompts, log] = this.panels.map((panel) => panel.element);
        this.none = h("p", { class: "al-quiet" }, S.running.nothing);
        this.body = h(
            "div",
            { class: "al-running" },
            this.header.element,
            h(
                "div",
                { class: "al-halves" },
                h("div", {}, h("section", { class: "al-card", "aria-label": S.charts.loss }, this.curves.loss.element)),
                h("div", {}, card(S.samples.title, this.samples.element, prompts), saved),
            ),
            h("section", { class: "al-card", "aria-label": S.charts.title }, this.curves.element),
            pictures,
            log,
        );
        const bar = h("label", { class: "al-inline al-run-choice" }, h("span", {}, S.running.run), this.choice);
        this.element = h("div", { class: "al-view" }, bar, this.none, this.body, queuePanel(this.app));
        this.bar = bar;
    }

    /** Show this run until another is opened; one that trains, until the next does. @param {string} id */
    open(id) {
        this.byHand = id !== this.app.store.active()?.id;
        this.#turnTo(id);
        sessionStorage.setItem(OPENED, id);
        this.#summaries();
        if (this.visible) this.#load();
    }

    /** Show whatever trains from now on. */
    follow() {
        this.byHand = false;
    }

    #turnTo(id) {
        if (id === this.id) return;
        this.id = id;
        this.detail = null;
        this.living = undefined;
        this.series.clear();
    }

    /** Whether someone looks at the tab: only then is the run followed. @param {boolean} watched */
    looking(watched) {
        this.watched = watched;
        if (!this.visible) return;
        if (watched) this.#load();
        else this.#leave();
    }

    #show(visible) {
        this.visible = visible;
        if (visible) {
            // What trains now is what a person comes to see, unless they have opened another run.
            const active = this.app.store.active();
            if (active && !this.byHand) this.#turnTo(active.id);
            this.#summaries();
            this.#load();
        } else {
            this.#leave();
        }
    }

    #first() {
        return this.app.store.sorted().find((run) => run.state !== "queued")?.id ?? "";
    }

    #summaries() {
        const runs = this.app.store.sorted();
        const active = this.app.store.active();
        if (!this.app.store.runs.has(this.id)) this.#turnTo(active?.id ?? this.#first());
        else if (active && active.id !== this.id && !this.byHand && !LIVING.includes(this.app.store.runs.get(this.id).state)) {
            this.#turnTo(active.id); // the queue has gone on to the next
            if (this.visible) this.#load();
        }
        const key = runs.map((run) => run.id + run.state).join("|");
        if (key !== this.choices) {
            this.choices = key;
            fill(this.choice, runs.map((run) => h("option", { value: run.id }, `${run.name} · ${run.algo} · ${S.states[run.state] ?? run.state}`)));
        }
        this.choice.value = this.id;
        const run = this.app.store.runs.get(this.id);
        show(this.bar, runs.length > 1);
        show(this.none, !run);
        show(this.body, Boolean(run));
        if (!run) return;
        this.header.draw(run);
        for (const panel of this.panels) panel.summary?.(run);
        const living = LIVING.includes(run.state);
        // Stopped, or started from the queue: what is shown of it is read again.
        if (this.visible && living !== this.living && this.living !== undefined) this.#load();
        if (this.living && !living) this.byHand = false; // seen to its end
        this.living = living;
    }

    async #load() {
        this.#leave();
        const id = this.id;
        if (!id) return;
        await attempt(async () => {
            const path = `/runs/${encodeURIComponent(id)}`;
            // The details first: events after their offset that the series already holds are steps it then passes over.
            const detail = await this.app.api.get(path);
            const series = await this.app.api.get(`${path}/series`, { points: 1000 });
            if (id !== this.id || !this.visible) return;
            this.#take(detail);
            this.series.load(series);
            this.series.growth = detail.growth_rate ?? 0;
            this.series.validate(detail.validation ?? []);
            this.curves.draw();
            this.living = LIVING.includes(detail.state);
            if (this.living && this.watched) this.#follow(id, detail.offset);
        });
    }

    #take(detail) {
        this.detail = detail;
        this.samples.load(detail.id, detail.samples ?? []);
        for (const panel of this.panels) panel.load?.(detail);
        this.header.draw(this.app.store.runs.get(detail.id) ?? detail);
    }

    #follow(id, offset) {
        this.stream?.close();
        this.stream = this.app.api.listen(
            (last) => this.app.api.url(`/runs/${encodeURIComponent(id)}/events`, { after: last ?? offset }),
            (event) => this.#event(event),
        );
    }

    #leave() {
        this.stream?.close();
        this.stream = null;
    }

    #event(event) {
        this.series.add(event);
        if (event.event === "step") this.curves.soon();
        this.header.event(event);
        if (this.series.full()) return this.#load();
        if (CHANGES.includes(event.event)) this.#readAgain();
    }

    /** Details once more, at most once at a time. */
    async #readAgain() {
        if (this.reading) return void (this.again = true);
        this.reading = true;
        const id = this.id;
        const detail = await this.app.api.get(`/runs/${encodeURIComponent(id)}`).catch(() => null);
        this.reading = false;
        if (detail && id === this.id) this.#take(detail);
        if (this.again) {
            this.again = false;
            this.#readAgain();
        }
    }
}

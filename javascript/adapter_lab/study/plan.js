/** What a study will come to, before it starts: a table, what does not fit, and Start. */
import { ApiError } from "../server/api.js";
import { attempt, say } from "../kit/dialog.js";
import { button, fill, h, setText, show, table } from "../kit/dom.js";
import { same } from "../server/form.js";
import { duration, number, size } from "../kit/format.js";
import { S, put } from "../kit/strings.js";

const ENDED = 409;
const AGAIN_MS = 1000;
const MOST_TRIES = 4;

/**
 * @param {import("../app.js").App} app @param {import("./draft.js").StudyDraft} draft
 * @param {(id: string) => void} started
 */
export function planPanel(app, draft, started) {
    const facts = h("div", { class: "al-cost", "aria-live": "polite" });
    const problem = h("p", { class: "al-problem al-lines", role: "alert" });
    const remarks = h("div", { class: "al-remarks" });
    const rows = h("div", { id: "al-study-plan" });
    const start = button(S.study.start, () => begin(), { kind: "primary", id: "al-study-start" });
    const plan = new Plan(app, draft, draw);

    function draw() {
        const { value, error, busy } = plan;
        const missing = draft.missing(S.study.missing);
        setText(problem, missing || error);
        problem.classList.toggle("al-problem", !missing);
        show(problem, Boolean(missing || error));
        fill(facts, totals(value, busy));
        const misfits = (value?.variants ?? []).filter((entry) => entry.fits === false);
        const notes = [...(value?.remarks ?? []), ...misfits.map((entry) => put(S.study.misfit, entry.variant, size(entry.peak_bytes), size(value.memory_bytes)))];
        fill(remarks, notes.map((text) => h("p", { class: "al-warning" }, text)));
        fill(rows, value ? planTable(value) : h("p", { class: "al-quiet" }, busy ? S.study.planning : S.study.noPlan));
        setText(start, app.store.busy() ? S.study.startQueue : S.study.start);
    }

    /** Start what the draft holds now: what is changed while its plan is made belongs to the next press. */
    async function begin() {
        const body = draft.body();
        const when = app.store.busy() ? "queue" : "now";
        const fits = await plan.settle();
        if (!fits && same(body, draft.body())) return say(draft.missing(S.study.missing) || S.summary.fixFirst, "bad");
        await attempt(async () => {
            const { id } = await app.api.post("/studies", { ...body, when });
            await app.store.refresh();
            say(when === "now" ? S.study.started : S.summary.queued);
            started(id);
        });
    }

    draft.on("settled", () => plan.refresh());
    draft.on("changed", draw);
    app.store.on("queue", draw);
    draw();
    return { facts, problem, remarks, rows, start, shown: () => plan.look(true), hidden: () => plan.look(false) };
}

/** The plan for the draft as it is: sizes first, which is quick, then memory where there is a GPU. */
class Plan {
    constructor(app, draft, changed) {
        this.app = app;
        this.draft = draft;
        this.changed = changed;
        this.value = null;
        this.error = "";
        this.busy = false;
        this.known = false; // whether value or error are of the draft as it is
        this.key = "";
        this.visible = false;
        this.pending = Promise.resolve();
    }

    look(visible) {
        this.visible = visible;
        if (visible) this.refresh();
    }

    /** Ask again if something changed. */
    refresh() {
        const body = this.draft.body();
        const key = JSON.stringify(body);
        if (!this.visible || key === this.key) return this.pending;
        this.key = key;
        this.controller?.abort();
        this.controller = null;
        this.error = "";
        this.known = false;
        if (this.draft.missing(S.study.missing)) {
            this.value = null;
            this.busy = false;
            this.changed();
            return this.pending;
        }
        this.controller = new AbortController();
        this.pending = this.#ask(body, this.controller.signal);
        return this.pending;
    }

    async #ask(body, signal) {
        this.busy = true;
        this.changed();
        const left = this.app.store.status.device ? [false, true] : [false];
        for (let tries = 1; left.length; ) {
            try {
                this.value = await this.app.api.post("/studies/plan", { ...body, memory: left[0] }, signal);
                if (signal.aborted) return;
                this.known = true;
                left.shift();
                this.changed();
            } catch (error) {
                if (error.name === "AbortError" || signal.aborted) return;
                if (!(error instanceof ApiError)) throw error;
                // An older question that the server came to late has ended this one.
                if (error.status === ENDED && tries++ < MOST_TRIES) {
                    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
                    continue;
                }
                this.#fail(error);
                break;
            }
        }
        this.busy = false;
        this.changed();
    }

    #fail(error) {
        this.value = null;
        this.error = error.message;
        this.known = true;
        if (error.status === 0 || error.status === ENDED) this.key = ""; // asked again at the next change
    }

    /** Wait for the sizes of what is in the form now; false where it cannot be started. */
    async settle() {
        this.refresh();
        while (this.busy && !this.known) await this.pending;
        return this.known && !this.error;
    }
}

function totals(value, busy) {
    const fact = (text, what, id) => h("div", { class: "al-fact" }, h("b", { id }, text), h("span", {}, what));
    const pending = () => (busy ? h("span", { class: "al-waiting" }, S.summary.predicting) : "–");
    return [
        fact(value ? value.trainings : pending(), S.study.trainings, "al-study-trainings"),
        fact(value ? (value.minutes ? duration(60 * value.minutes) : S.study.untilKnown) : pending(), S.study.time, "al-study-time"),
        fact(value ? value.files : pending(), S.study.files, "al-study-files"),
        fact(value ? size(value.bytes) : pending(), S.study.bytes, "al-study-bytes"),
    ];
}

function planTable(value) {
    const memory = value.memory_bytes !== null;
    const head = [S.study.variant, S.study.parameters, S.study.file, S.study.length, memory && S.study.memory].filter(Boolean);
    const rows = value.variants.map((entry) => [
        h("b", {}, entry.variant),
        entry.trainable_parameters.toLocaleString(),
        size(entry.file_bytes),
        entry.steps ? put(S.summary.steps, entry.steps) : put(S.summary.minutes, number(entry.minutes)),
        ...(memory ? [[size(entry.peak_bytes), entry.fits === false && h("span", { class: "al-chip al-state", "data-state": "failed" }, S.study.doesNotFit)]] : []),
    ]);
    return table(head, rows);
}

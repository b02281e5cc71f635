/** Beside the form: what the run will cost and train, what looks wrong, and Start. */
import { attempt, say } from "../kit/dialog.js";
import { button, debounced, fill, folded, h, setText, show } from "../kit/dom.js";
import { same } from "../server/form.js";
import { number, size } from "../kit/format.js";
import { S, put } from "../kit/strings.js";

const PAUSE_MS = 900;
/** Settings that change neither size nor memory. */
const NO_COST = /^(run\.(name|output_folder|runs_folder|steps|epochs|minutes|seed)|save\.|preview\.|dataset\.(folder|trigger|prefix|suffix|class_tokens|repeats))/;

/**
 * @param {import("../app.js").App} app @param {import("../server/form.js").Form} form
 * @param {ReturnType<import("./dataset.js").datasetPanel>} dataset @param {() => void} started
 */
export function summary(app, form, dataset, started) {
    const cost = h("div", { class: "al-cost", "aria-live": "polite" });
    const plan = h("dl", { class: "al-plan" });
    const remarks = h("div", { class: "al-remarks", "aria-live": "polite" });
    const estimates = new Estimates(app, form, draw);
    const start = button(S.summary.start, () => submit(app.store.busy() ? "queue" : "now"), { kind: "primary", id: "al-start" });
    const queue = button(S.summary.queue, () => submit("queue"), { id: "al-queue" });
    const problems = h("div", { class: "al-problems" });
    const element = h(
        "aside",
        { class: "al-side al-card", "aria-label": S.summary.title },
        h("h3", {}, S.summary.title),
        h("div", { class: "al-actions" }, start, queue), // above what comes and goes: it stays where it is
        cost,
        plan,
        remarks,
        problems,
    );

    function draw() {
        fill(cost, drawCost(estimates, app.store.status.device));
        fill(plan, drawPlan(form, estimates.value, dataset.report));
        const found = suspicious(form, estimates.value, dataset.report, app.store.status);
        fill(remarks, found.map((text) => h("p", { class: "al-warning" }, text)));
        drawProblems(problems, form, element.parentElement);
        const busy = app.store.busy();
        setText(start, busy ? S.summary.queueNow : S.summary.start);
        show(queue, !busy);
    }

    /** Start what the form holds now: what is changed while the server answers belongs to the next press. */
    async function submit(when) {
        const settings = form.values();
        const unchanged = () => same(form.values(), settings);
        await form.resolve();
        if (unchanged() && form.problems.size) {
            form.insist();
            say(S.summary.fixFirst, "bad");
            return focusSetting(element.parentElement, [...form.problems.keys()][0]);
        }
        try {
            const { id } = await app.api.post("/runs", { settings, when });
            started();
            await app.store.refresh();
            say(when === "now" ? S.summary.started : S.summary.queued);
            app.openRun(id, when === "now");
        } catch (error) {
            if (error.problems?.length && unchanged()) form.complain(error.problems);
            say(error.message, "bad");
        }
    }

    form.on("resolved", () => {
        draw();
        estimates.soon();
    });
    form.on("changed", draw);
    dataset.on(() => {
        draw();
        const steps = dataset.report?.steps_per_epoch ?? 0;
        if (steps === form.stepsPerEpoch) return;
        form.stepsPerEpoch = steps;
        if (form.get("run.epochs")) form.resolve();
    });
    app.store.on("runs", draw);
    app.store.on("queue", draw);
    draw();
    const shown = () => attempt(() => app.store.refreshStatus().then(draw));
    return { element, shown };
}

/** The prediction for the form as it is: size first, which is quick, then memory. */
class Estimates {
    constructor(app, form, changed) {
        this.app = app;
        this.form = form;
        this.changed = changed;
        this.value = null;
        this.error = "";
        this.busy = false;
        this.key = "";
        this.controller = null;
        this.soon = debounced(PAUSE_MS, () => this.#ask());
    }

    async #ask() {
        const settings = Object.fromEntries(Object.entries(this.form.values()).filter(([path]) => !NO_COST.test(path)));
        const key = JSON.stringify(settings);
        if (key === this.key || this.form.refused || !this.#possible(settings)) return;
        this.key = key;
        this.controller?.abort();
        this.controller = new AbortController();
        const { signal } = this.controller;
        this.busy = true;
        this.value = null; // what is shown is never that of other settings
        this.error = "";
        this.changed();
        try {
            for (const memory of [false, true]) {
                this.value = await this.app.api.post("/estimate", { settings, memory }, signal);
                this.changed();
            }
        } catch (error) {
            if (error.name === "AbortError") return;
            this.value = null;
            this.error = error.message;
        }
        this.busy = false;
        this.changed();
    }

    #possible(settings) {
        const known = settings["base.checkpoint"] || (settings["base.family"] ?? "auto") !== "auto";
        const wrong = [...this.form.problems.keys()].some((path) => !NO_COST.test(path));
        return known && !wrong;
    }
}

function drawCost(estimates, device) {
    const { value, error, busy } = estimates;
    if (error) return h("p", { class: "al-problem" }, error);
    const pending = () => (busy ? h("span", { class: "al-waiting" }, S.summary.predicting) : "–");
    const total = device?.total_bytes;
    const peak = value?.peak_bytes;
    const share = total && peak ? peak / total : 0;
    return [
        h("div", { class: "al-fact" }, h("b", { id: "al-file-size" }, value ? size(value.file_bytes) : pending()), h("span", {}, S.summary.fileSize)),
        h("div", { class: "al-fact" }, h("b", { id: "al-peak" }, peak ? size(peak) : pending()), h("span", {}, total ? put(S.summary.memoryOf, size(total)) : S.summary.memory)),
        share > 0 &&
            h("div", { class: `al-meter ${share > 0.92 ? "al-over" : ""}`, role: "img", "aria-label": put(S.summary.share, Math.round(100 * share)) }, h("div", { style: `width: ${Math.min(100, 100 * share)}%` })),
        peak > 0 && folded(S.summary.breakdown, breakdown(value)),
    ];
}

function breakdown(value) {
    const rows = Object.entries(value.breakdown).sort((a, b) => b[1] - a[1]);
    return h("div", {}, rows.map(([what, bytes]) => h("div", { class: "al-pair" }, h("span", {}, what), h("span", {}, size(bytes)))), value.assumptions.map((text) => h("p", { class: "al-help" }, text)));
}

/** How long it runs and what is trained at which rate. */
function drawPlan(form, value, report) {
    const rows = [[S.summary.length, lengthOf(form, report)], ...rates(form)];
    if (value) rows.push([S.summary.trained, put(S.summary.parameters, value.trainable_parameters.toLocaleString(), value.modules)]);
    return rows.map(([what, text]) => [h("dt", {}, what), h("dd", {}, text)]);
}

function lengthOf(form, report) {
    const [steps, epochs, minutes] = ["run.steps", "run.epochs", "run.minutes"].map((path) => Number(form.get(path)) || 0);
    const each = report?.steps_per_epoch;
    const parts = [];
    if (steps) parts.push(put(S.summary.steps, steps) + (each ? ` (${put(S.summary.epochs, number(steps / each))})` : ""));
    if (epochs) parts.push(put(S.summary.epochs, epochs) + (each ? ` (${put(S.summary.steps, epochs * each)})` : ""));
    if (minutes) parts.push(put(S.summary.minutes, minutes));
    return parts.join(S.summary.orUntil) || S.summary.endless;
}

function rates(form) {
    const rate = (path) => (form.get(path) === "same" ? form.get("optimizer.lr") : form.get(path));
    const text = (value) => (typeof value === "number" ? put(S.summary.rate, number(value)) : put(S.summary.usualRate, form.get("optimizer.name")));
    const on = (part) => form.get(part.trained) && (!part.switch || form.get(part.switch)) && rate(part.rate) !== 0;
    // Of a part that only some bases have, nothing is said until it is switched on.
    const listed = form.schema.parts.filter((part) => part.switch || part.key === "unet" || form.get(part.trained));
    return listed.map((part) => [part.title, on(part) ? text(rate(part.rate)) : S.summary.notTrained]);
}

/** What is allowed but looks wrong, in words. */
function suspicious(form, value, report, status) {
    const found = [...(form.resolved?.remarks ?? [])];
    const total = status.device?.total_bytes;
    if (form.refused) found.push(form.refused);
    if (!status.environment.ready) found.push(`${status.environment.message} ${status.environment.run}`);
    if (total && value?.peak_bytes > 0.92 * total) found.push(put(S.summary.tooLarge, size(value.peak_bytes), size(total)));
    if (report?.without_caption.length) found.push(put(S.summary.missingCaptions, report.without_caption.length));
    const steps = Number(form.get("run.steps"));
    if (report && steps && steps / report.steps_per_epoch < 2) found.push(S.summary.fewEpochs);
    return found;
}

function drawProblems(node, form, view) {
    const rows = [...form.problems].map(([path, messages]) =>
        button(messages.join(" "), () => focusSetting(view, path), { class: `al-button al-link ${form.mistaken(path) ? "al-problem" : "al-quiet"}` }),
    );
    fill(node, rows);
}

/** Bring a setting's field into view, with the focus in it. */
function focusSetting(view, path) {
    const found = view?.querySelector(`[data-setting="${CSS.escape(path)}"]`);
    for (let node = found; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
    const input = found?.querySelector("input, select, textarea, button");
    input?.focus();
    found?.scrollIntoView({ block: "center" });
}

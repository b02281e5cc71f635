/** The studies of the runs folder: live progress, their variants in a table, what to use, and what can be done. */
import { ask, attempt, say } from "../kit/dialog.js";
import { button, card, fill, h, setText, show, table } from "../kit/dom.js";
import { duration, moment, number, plain, size } from "../kit/format.js";
import { hasPlot, sendToPlot } from "../server/host.js";
import { LIVING } from "../server/store.js";
import { S, put } from "../kit/strings.js";

const OPENED = "adapter-lab-study-opened";
const LIVE_MS = 2000;
const QUIET_MS = 15000;

/** @param {import("../app.js").App} app @param {(ids: string[]) => void} found is told which studies there are */
export function studiesPanel(app, found) {
    return new Studies(app, found);
}

class Studies {
    constructor(app, found) {
        this.app = app;
        this.found = found;
        this.opened = sessionStorage.getItem(OPENED) ?? "";
        this.rows = new Map();
        this.visible = false;
        this.timer = 0;
        this.list = h("div", { class: "al-runs" });
        this.none = h("p", { class: "al-quiet" }, S.study.none);
        this.element = card(S.study.studies, this.none, this.list);
        app.store.on("queue", () => this.#soon(0));
    }

    shown() {
        this.visible = true;
        this.#read();
    }

    hidden() {
        this.visible = false;
        clearTimeout(this.timer);
    }

    /** Show a study in full. @param {string} id */
    open(id) {
        this.opened = id;
        sessionStorage.setItem(OPENED, id);
        this.#read().then(() => this.rows.get(id)?.element.scrollIntoView({ block: "nearest" }));
    }

    /** @param {string} id */
    toggle(id) {
        if (this.opened !== id) return this.open(id);
        this.opened = "";
        sessionStorage.removeItem(OPENED);
        this.rows.get(id).close();
        return undefined;
    }

    #soon(milliseconds) {
        clearTimeout(this.timer);
        if (this.visible) this.timer = setTimeout(() => this.#read(), milliseconds);
    }

    async #read() {
        clearTimeout(this.timer);
        const asked = (this.asked = (this.asked ?? 0) + 1);
        let found = null;
        // A page that nobody looks at asks for nothing.
        if (!document.hidden && this.app.container?.offsetParent !== null) found = await this.app.api.get("/studies").catch(() => null);
        if (asked !== this.asked) return;
        if (found) this.#draw(found);
        if (found && this.rows.has(this.opened)) await this.rows.get(this.opened).read();
        if (asked === this.asked) this.#soon(found?.some((study) => LIVING.includes(study.state)) || !found ? LIVE_MS : QUIET_MS);
    }

    #draw(studies) {
        for (const study of studies) {
            if (!this.rows.has(study.id)) this.rows.set(study.id, new StudyRow(this.app, this, study));
            this.rows.get(study.id).draw(study);
        }
        const order = studies.map((study) => study.id).join("|");
        if (order !== this.list.dataset.order) {
            this.list.dataset.order = order;
            fill(this.list, studies.map((study) => this.rows.get(study.id).element));
        }
        show(this.none, studies.length === 0);
        this.found(studies.map((study) => study.id));
    }
}

/** One study: its head, and in full what it has come to. */
class StudyRow {
    constructor(app, studies, study) {
        this.app = app;
        this.studies = studies;
        this.study = study;
        this.path = `/studies/${encodeURIComponent(study.id)}`;
        this.state = h("span", { class: "al-chip al-state" });
        this.facts = h("span", { class: "al-quiet" });
        this.message = h("p", { class: "al-help", role: "status" });
        this.bar = h("div");
        this.progress = h("div", { class: "al-progress", role: "progressbar", "aria-label": S.running.progress, "aria-valuemin": "0", "aria-valuemax": "100" }, this.bar);
        this.advice = h("div", { class: "al-advice", "aria-live": "polite" });
        this.body = h("div", { class: "al-stack", id: `al-study-of-${study.id}` });
        this.inside = h("div", { class: "al-stack", hidden: true }, this.advice, this.body);
        this.actions = this.#buttons();
        this.element = h(
            "article",
            { class: "al-study", "aria-label": study.name, "data-study-id": study.id },
            h("div", { class: "al-row al-wrap" }, h("b", {}, study.name), this.state, this.facts, h("span", { class: "al-grow" }), h("div", { class: "al-run-actions" }, Object.values(this.actions))),
            this.progress,
            this.message,
            this.inside,
        );
    }

    #buttons() {
        const post = (what, body, done) =>
            attempt(async () => {
                await this.app.api.post(`${this.path}/${what}`, body);
                await this.app.store.refresh();
                say(done);
            });
        const stopNow = async () => {
            const sure = await ask({ title: S.running.stopNowTitle, text: S.running.stopNowText, yes: S.running.stopNow, danger: true });
            if (sure) await post("stop", { how: "now" }, S.study.stopped);
        };
        const resume = () => post("resume", { when: this.app.store.busy() ? "queue" : "now" }, S.study.goesOn);
        const link = (form, title) => h("a", { class: "al-button", href: this.app.api.url(`${this.path}/report`, { form }), target: "_blank", rel: "noopener", "data-report": form }, title);
        return {
            details: button(S.study.details, () => this.studies.toggle(this.study.id), { "aria-expanded": "false", "aria-controls": this.body.id }),
            report: link("html", S.study.report),
            csv: link("csv", S.study.csv),
            plot: button(S.runs.plot, () => this.#plot()),
            stop: button(S.running.stopSave, () => post("stop", { how: "save" }, S.study.stopping), { kind: "primary" }),
            now: button(S.running.stopNow, stopNow, { kind: "danger" }),
            resume: button(S.running.resume, resume, { kind: "primary" }),
            folder: button(S.runs.openFolder, () => attempt(() => this.app.api.post(`${this.path}/open-folder`))),
        };
    }

    #plot() {
        return attempt(async () => {
            const plot = await this.app.api.get(`${this.path}/plot`);
            sendToPlot(plot.infotext);
            say(S.study.plotSent);
        });
    }

    /** @param {any} study its summary */
    draw(study) {
        this.study = study;
        setText(this.state, S.states[study.state] ?? study.state);
        this.state.dataset.state = study.state;
        const percent = Math.round(100 * study.progress);
        this.progress.setAttribute("aria-valuenow", String(percent));
        this.progress.setAttribute("aria-valuetext", `${percent}%`);
        this.bar.style.width = `${100 * study.progress}%`;
        setText(this.facts, summaryOf(study));
        setText(this.message, study.message);
        this.message.classList.toggle("al-problem", study.state === "failed" || study.state === "killed");
        const living = LIVING.includes(study.state);
        const saved = study.files > 0;
        show(this.actions.stop, living);
        show(this.actions.now, living);
        // One that has ended tries what failed once more.
        show(this.actions.resume, !living && study.state !== "queued" && (study.state !== "finished" || study.failed > 0));
        show(this.actions.report, saved);
        show(this.actions.csv, saved);
        show(this.actions.plot, saved && hasPlot());
    }

    close() {
        show(this.inside, false);
        this.actions.details.setAttribute("aria-expanded", "false");
    }

    /** Read and show it in full. */
    async read() {
        const detail = await this.app.api.get(this.path).catch(() => null);
        if (!detail || this.studies.opened !== this.study.id) return;
        for (const row of this.studies.rows.values()) if (row !== this) row.close();
        show(this.inside, true);
        this.actions.details.setAttribute("aria-expanded", "true");
        this.draw(detail);
        const key = JSON.stringify([detail.rows, detail.decisions, detail.notes]);
        if (key !== this.drawn) {
            this.drawn = key;
            fill(this.body, about(detail), variantTable(detail), decisions(detail), notes(detail));
        }
        this.#advise(detail);
    }

    /** What to use, asked for once the study has ended, and again after it went on. */
    async #advise(detail) {
        const ended = !LIVING.includes(detail.state) && detail.state !== "queued" && detail.files > 0;
        const key = ended ? `${detail.ended_at} ${detail.ended}` : "";
        if (key === this.advised) return;
        this.advised = key;
        fill(this.advice, ended && h("p", { class: "al-quiet" }, S.study.judging));
        if (!ended) return;
        const found = await attempt(() => this.app.api.get(`${this.path}/recommendation`));
        if (this.advised === key) fill(this.advice, found && adviceOf(found));
    }
}

function summaryOf(study) {
    return [
        moment(study.started_at),
        put(S.study.endedOf, study.ended, study.trainings),
        study.failed > 0 && put(S.study.failed, study.failed),
        put(S.study.filesSaved, study.files),
        study.eta_seconds !== null && `${duration(study.eta_seconds)} ${S.running.eta}`,
    ]
        .filter(Boolean)
        .join(" · ");
}

function about(detail) {
    const budget = put(S.study.budgetOf, number(detail.amount), S.study.units[detail.unit] ?? detail.unit, detail.points);
    const pairs = [
        [S.study.budget, budget],
        [S.study.seeds, plain(detail.seeds)],
        [S.train.base, detail.base],
        [S.train.pictures, detail.pictures],
        detail.race && [S.study.race, S.study.metrics[detail.race.metric] ?? detail.race.metric],
        detail.scorers.length > 0 && [S.study.scores, detail.scorers.join(", ")],
    ];
    return h("dl", { class: "al-plan al-about" }, pairs.filter(Boolean).map(([what, text]) => [h("dt", {}, what), h("dd", {}, text)]));
}

function variantTable(detail) {
    const head = [S.study.variant, S.study.state, S.study.point, S.running.step, S.study.minutesHead, S.running.perStep, S.running.loss, S.charts.validation, S.study.file, S.running.peak];
    const rows = detail.rows.map((row) => [
        [h("b", {}, row.variant), row.why && h("div", { class: row.state === "failed" ? "al-problem" : "al-help" }, row.why)],
        [h("span", { class: "al-chip al-state", "data-state": row.state }, S.study.states[row.state] ?? row.state), meter(row)],
        `${row.point}/${detail.points}`,
        row.step,
        number(row.minutes),
        number(row.seconds_per_step),
        number(row.loss),
        number(row.validation_loss),
        size(row.file_bytes ?? row.predicted.file_bytes),
        size(row.peak_bytes ?? row.predicted.peak_bytes),
    ]);
    return h("div", { class: "al-study-table" }, table(head, rows));
}

function meter(row) {
    const percent = Math.round(100 * row.progress);
    return row.state === "running" && h("div", { class: "al-meter", role: "img", "aria-label": put("{0}%", percent) }, h("div", { style: `width: ${percent}%` }));
}

function decisions(detail) {
    if (!detail.decisions.length) return null;
    const items = detail.decisions.map((entry) => h("li", {}, put(S.study.dropped, entry.variant, entry.point, moment(entry.time), entry.why)));
    return h("div", {}, h("h4", {}, S.study.droppedTitle), h("ul", { class: "al-list" }, items));
}

function notes(detail) {
    if (!detail.notes.length) return null;
    const items = detail.notes.map((note) => h("li", {}, `${moment(note.time)}: ${note.message}`));
    return h("div", {}, h("h4", {}, S.study.notes), h("ul", { class: "al-list" }, items));
}

function adviceOf(found) {
    const part = (title, sentences) => sentences.length > 0 && [title && h("h4", {}, title), h("ul", { class: "al-sentences" }, sentences.map((text) => h("li", {}, text)))];
    return [h("p", { class: "al-headline" }, found.headline), found.adapter && h("code", {}, found.adapter), part("", found.reasons), part(S.study.cautions, found.cautions), part(S.study.wasteful, found.wasteful)];
}

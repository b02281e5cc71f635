/** What the page knows: the server's truth, read again after a reload and followed by events while it is looked at. */

/** @typedef {{id: string, folder: string, name: string, algo: string, state: string, step: number, total_steps: number,
 *   progress: number, started_at: number, ended_at: number, seconds_per_step: number, eta_seconds: number, loss: number,
 *   memory_bytes: number, peak_bytes: number, thumbnail: string|null, message: string, tag: string, warnings: string[],
 *   adapters: {path: string, name: string, step: number, bytes: number}[]}} RunSummary */

export const LIVING = ["starting", "running", "stopping"];

export class Store {
    /** @param {import("./api.js").Api} api */
    constructor(api) {
        this.api = api;
        this.status = null;
        this.schema = null;
        /** @type {Map<string, RunSummary>} */
        this.runs = new Map();
        this.queue = { order: [], paused: false, active: [] };
        this.connected = true;
        this.events = new EventTarget();
        this.stream = null;
        /** @type {Set<object[]>} Per reading under way, the changes that came meanwhile. */
        this.meanwhile = new Set();
    }

    /** @param {"runs"|"queue"|"connected"|"status"} what @param {() => void} act */
    on(what, act) {
        this.events.addEventListener(what, act);
    }

    #tell(what) {
        this.events.dispatchEvent(new Event(what));
    }

    /** Read everything once. */
    async load() {
        [this.status, this.schema] = await Promise.all([this.api.get("/status"), this.api.get("/schema")]);
        await this.refresh();
    }

    /** Read runs and queue again. */
    async refresh() {
        const changes = [];
        this.meanwhile.add(changes);
        try {
            const [runs, queue] = await Promise.all([this.api.get("/runs"), this.api.get("/queue")]);
            this.runs = new Map(runs.map((run) => [run.id, run]));
            this.queue = queue;
        } finally {
            this.meanwhile.delete(changes);
        }
        // The answer may be older than a change that came meanwhile, and a change is told only once.
        for (const change of changes) this.#take(change);
        this.#tell("runs");
        this.#tell("queue");
    }

    async refreshStatus() {
        this.status = await this.api.get("/status");
        this.#tell("status");
    }

    /** Follow changes while `watching`; a hidden page holds no connection, of which browsers allow six. @param {boolean} watching */
    watch(watching) {
        if (watching === Boolean(this.stream)) return;
        if (!watching) {
            this.stream.close();
            this.stream = null;
            return;
        }
        this.stream = this.api.listen(
            () => this.api.url("/events"),
            (change) => this.#apply(change),
            (connected) => this.#connection(connected),
        );
    }

    #connection(connected) {
        if (connected === this.connected) return;
        this.connected = connected;
        this.#tell("connected");
        if (connected) this.refresh().catch(() => {});
    }

    #take(change) {
        for (const run of change.runs ?? []) this.runs.set(run.id, run);
        for (const id of change.removed ?? []) this.runs.delete(id);
        if (change.queue) this.queue = change.queue;
    }

    #apply(change) {
        for (const changes of this.meanwhile) changes.push(change);
        this.#take(change);
        if (change.queue) this.#tell("queue");
        if (change.runs?.length || change.removed?.length) this.#tell("runs");
    }

    /** The run that trains now. @returns {RunSummary|undefined} */
    active() {
        return [...this.runs.values()].find((run) => LIVING.includes(run.state));
    }

    /** Whether a run or a study has the device. */
    busy() {
        return Boolean(this.active()) || this.queue.active.length > 0;
    }

    /** Whether a study has the device: what lives and is none of the runs. The end of a run's process is not yet one. */
    studies() {
        return this.queue.active.some((id) => !this.runs.has(id));
    }

    /** All runs, newest first; those that wait come first. @returns {RunSummary[]} */
    sorted() {
        const time = (run) => run.started_at ?? Infinity;
        return [...this.runs.values()].sort((a, b) => time(b) - time(a));
    }
}

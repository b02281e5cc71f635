/** A run's numbers by step: down-sampled by the server, and followed live between two readings. */

/** Live points after which the server is asked for a new, evenly down-sampled reading. */
const MOST_LIVE = 500;

/** Columns of effective rates are called lr/unet, lr/te1 and so on; of Prodigy's estimates d/unet and so on. */
const RATE = "lr/";
const ESTIMATE = "d/";

export class Series {
    constructor() {
        this.clear();
    }

    clear() {
        /** @type {number[]} */
        this.steps = [];
        this.loss = { min: [], mean: [], max: [] };
        this.speed = [];
        this.memory = [];
        /** Effective rate per part. @type {Map<string, (number|null)[]>} */
        this.rates = new Map();
        /** Prodigy's estimate d per part. @type {Map<string, (number|null)[]>} */
        this.estimates = new Map();
        /** Largest growth of d per step; 0: any. */
        this.growth = 0;
        /** @type {[number, number][]} */
        this.validation = [];
        this.live = 0;
    }

    /** Take the server's reading. @param {{steps: number[], columns: Record<string, {mean: any[], min?: any[], max?: any[]}>}} read */
    load(read) {
        this.clear();
        const column = (name) => read.columns[name] ?? { mean: [] };
        const loss = column("loss");
        this.steps = [...read.steps];
        this.loss = { min: [...(loss.min ?? loss.mean)], mean: [...loss.mean], max: [...(loss.max ?? loss.mean)] };
        this.speed = [...column("seconds_per_step").mean];
        this.memory = [...(column("memory_bytes").max ?? column("memory_bytes").mean)];
        const parts = (prefix) =>
            new Map(
                Object.entries(read.columns)
                    .filter(([name]) => name.startsWith(prefix))
                    .map(([name, values]) => [name.slice(prefix.length), [...values.mean]]),
            );
        this.rates = parts(RATE);
        this.estimates = parts(ESTIMATE);
    }

    /**
     * The largest rate that the limit on d's growth allows at each step: d0 x growth^steps x lr. Beyond three times
     * what was used it says nothing any more, and is left out. Null where there is no limit.
     * @returns {(number|null)[]|null}
     */
    cap() {
        const [part, estimates] = [...this.estimates][0] ?? [];
        const start = estimates?.findIndex((value) => value > 0) ?? -1;
        if (this.growth <= 1 || start < 0) return null;
        const rates = this.rates.get(part);
        const most = 3 * Math.max(...rates.filter((value) => value !== null));
        return this.steps.map((step, index) => {
            if (!(estimates[index] > 0)) return null;
            const allowed = estimates[start] * this.growth ** (step - this.steps[start]);
            const rate = (rates[index] / estimates[index]) * Math.max(allowed, estimates[index]);
            return rate <= most ? rate : null;
        });
    }

    /** @param {{step: number, loss: number}[]} entries */
    validate(entries) {
        this.validation = entries.map((entry) => [entry.step, entry.loss]);
    }

    /** Whether the live points are so many that a new reading is due. */
    full() {
        return this.live >= MOST_LIVE;
    }

    /** Take one event. @param {any} event */
    add(event) {
        if (event.event === "resumed") return this.#cut(event.step);
        if (event.event === "training") this.growth = event.growth_rate ?? 0;
        if (event.event === "validation") this.validation.push([event.step, event.loss]);
        if (event.event !== "step" || event.step <= (this.steps.at(-1) ?? 0)) return;
        this.steps.push(event.step);
        for (const row of Object.values(this.loss)) row.push(event.loss);
        this.speed.push(event.seconds_per_step);
        this.memory.push(event.memory_bytes);
        for (const [part, values] of Object.entries(event.rates ?? {})) {
            if (!this.rates.has(part)) this.rates.set(part, this.steps.slice(1).map(() => null));
            if ("d" in values && !this.estimates.has(part)) this.estimates.set(part, this.steps.slice(1).map(() => null));
        }
        for (const [part, row] of this.rates) row.push(event.rates?.[part]?.lr ?? null);
        for (const [part, row] of this.estimates) row.push(event.rates?.[part]?.d ?? null);
        this.live += 1;
    }

    /** Steps after the state that a run was resumed from were done again. */
    #cut(step) {
        const length = this.steps.filter((entry) => entry <= step).length;
        for (const row of [this.steps, ...Object.values(this.loss), this.speed, this.memory, ...this.rates.values(), ...this.estimates.values()]) row.length = Math.min(row.length, length);
        this.validation = this.validation.filter(([at]) => at <= step);
    }
}

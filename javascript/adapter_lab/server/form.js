/** The settings being filled in: what was changed, what the server says about it, and who wants to know. */
import { ApiError } from "./api.js";
import { debounced } from "../kit/dom.js";

const DRAFT = "adapter-lab-draft";
// Long enough that a path being typed is not called missing at every letter.
const PAUSE_MS = 350;

/** What a new form starts with beside the defaults and the first adapter type: a run needs an end. */
const START = { "run.steps": 1000, "save.every_steps": 200 };

export class Form {
    /** @param {import("./api.js").Api} api @param {any} schema */
    constructor(api, schema) {
        this.api = api;
        this.schema = schema;
        /** Every setting by its path. @type {Map<string, any>} */
        this.start = { ...START, ...schema.types[0].settings };
        this.settings = new Map(schema.sections.flatMap((section) => section.settings.map((entry) => [entry.path, entry])));
        /** Settings that differ from their default, {path: value}. */
        this.changed = this.#draft();
        this.resolved = null;
        /** Problems by path; those of list entries by the path of the list. @type {Map<string, string[]>} */
        this.problems = new Map();
        /** Settings that were changed on this page; until Start is pressed, what is missing elsewhere is no mistake. */
        this.touched = new Set();
        this.insisted = false;
        /** Settings that were changed since the server was last asked: what it answers is not about them. */
        this.newer = new Set();
        this.refused = "";
        this.events = new EventTarget();
        this.resolveSoon = debounced(PAUSE_MS, () => this.resolve());
        this.asked = 0;
        /** Optimiser steps per epoch, once the images were read: what a budget of epochs comes to. */
        this.stepsPerEpoch = 0;
        /** The last asking. @type {Promise<void>} */
        this.latest = Promise.resolve();
    }

    #draft() {
        try {
            const kept = JSON.parse(localStorage.getItem(DRAFT) ?? "null");
            if (kept) return Object.fromEntries(Object.entries(kept).filter(([path]) => this.settings.has(path)));
        } catch {
            // A draft that cannot be read is no loss.
        }
        return { ...this.start };
    }

    /** @param {"changed"|"resolved"} what @param {(event: CustomEvent) => void} act `detail` of "changed": the paths */
    on(what, act) {
        this.events.addEventListener(what, /** @type {EventListener} */ (act));
    }

    /** @param {string} path */
    get(path) {
        return path in this.changed ? this.changed[path] : this.settings.get(path)?.default;
    }

    /** @param {string} path @param {any} value */
    set(path, value) {
        this.setAll({ [path]: value });
    }

    /** Change several settings at once. @param {Record<string, any>} values */
    setAll(values) {
        for (const [path, value] of Object.entries(values)) {
            const setting = this.settings.get(path);
            if (!setting) continue;
            // What was only missing until now is not known to be wrong.
            if (!this.mistaken(path)) this.problems.delete(path);
            if (same(value, setting.default)) delete this.changed[path];
            else this.changed[path] = value;
            this.touched.add(path);
            this.newer.add(path);
        }
        this.#keep();
        this.events.dispatchEvent(new CustomEvent("changed", { detail: Object.keys(values) }));
        this.resolveSoon();
    }

    /** Put these settings in place of all others, but those of `keep`. @param {Record<string, any>} values @param {string[]} keep */
    replace(values, keep = []) {
        const kept = Object.fromEntries(keep.filter((path) => path in this.changed).map((path) => [path, this.changed[path]]));
        const before = Object.keys(this.changed);
        this.changed = {};
        const back = Object.fromEntries(before.map((path) => [path, this.settings.get(path).default]));
        this.setAll({ ...back, ...START, ...values, ...kept });
    }

    #keep() {
        try {
            localStorage.setItem(DRAFT, JSON.stringify(this.changed));
        } catch {
            // A browser that keeps nothing only forgets the draft.
        }
    }

    /** What the server is asked with: a copy of the changed settings. */
    values() {
        return structuredClone(this.changed);
    }

    /** Ask the server which settings are used, what is wrong, and what is worth a remark; done when the last asking is. */
    resolve() {
        this.latest = this.#ask();
        return this.latest;
    }

    async #ask() {
        const asked = ++this.asked;
        this.newer.clear();
        try {
            const resolved = await this.api.post("/config/resolve", { settings: this.values(), steps_per_epoch: this.stepsPerEpoch });
            if (asked !== this.asked) return this.latest;
            this.resolved = resolved;
            this.refused = "";
            this.#take(resolved.problems);
        } catch (error) {
            if (asked !== this.asked) return this.latest;
            if (!(error instanceof ApiError)) throw error;
            this.refused = error.problems.length ? "" : error.message;
            this.#take(error.problems);
        }
        this.events.dispatchEvent(new CustomEvent("resolved"));
    }

    /** @param {{setting: string, message: string}[]} problems */
    #take(problems) {
        this.problems = new Map();
        for (const { setting, message } of problems) {
            const path = setting.replace(/\[.*$/, "");
            if (this.newer.has(path)) continue;
            this.problems.set(path, [...(this.problems.get(path) ?? []), message]);
        }
    }

    /** Whether a problem of the setting is a mistake, not something still to be filled in. @param {string} path */
    mistaken(path) {
        return this.problems.has(path) && (this.insisted || this.touched.has(path) || path in this.changed);
    }

    /** From now on what is missing is a mistake. */
    insist() {
        this.insisted = true;
        this.events.dispatchEvent(new CustomEvent("resolved"));
    }

    /** Show problems that a request other than `resolve` met. @param {{setting: string, message: string}[]} problems */
    complain(problems) {
        this.#take(problems);
        this.events.dispatchEvent(new CustomEvent("resolved"));
    }

    /** Whether the setting has an effect beside the others. @param {string} path */
    used(path) {
        return this.resolved?.used?.[path] ?? true;
    }
}

/** @param {any} a @param {any} b */
export function same(a, b) {
    return a === b || (typeof a === "object" && JSON.stringify(a) === JSON.stringify(b));
}

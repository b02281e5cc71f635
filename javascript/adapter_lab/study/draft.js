/** A study being put together: its rows, budget and the rest, kept by this browser until it is started. */
import { debounced } from "../kit/dom.js";

const DRAFT = "adapter-lab-study";
const PAUSE_MS = 900;
/** Settings of the Train form that a study has no use for: variants say what is trained, the budget how long. */
const NOT_SHARED = /^(network\.|run\.(name|steps|epochs|minutes|seed|output_folder|runs_folder)$|save\.(every_|keep_last))/;
const START = {
    name: "study",
    unit: "minutes",
    amount: 60,
    points: 8,
    parameters: 0,
    seeds: "1",
    prompts: "",
    race: false,
    metric: "loss",
    confidence: 2,
    scorers: { dino: "", clip: "", tagger: "" },
    rows: null,
    edited: false,
};

/** @typedef {{on: boolean, name: string, settings: Record<string, any>}} Row */

export class StudyDraft {
    /** @param {import("../server/form.js").Form} form the Train form, whose folder, base and other settings all variants share */
    constructor(form) {
        this.form = form;
        this.values = { ...structuredClone(START), ...this.#kept() };
        this.events = new EventTarget();
        this.soon = debounced(PAUSE_MS, () => this.#tell("settled"));
        form.on("changed", () => this.#changed());
    }

    #kept() {
        try {
            return JSON.parse(localStorage.getItem(DRAFT) ?? "{}");
        } catch {
            return {}; // A draft that cannot be read is no loss.
        }
    }

    /** @param {"changed"|"rows"|"settled"} what @param {() => void} act */
    on(what, act) {
        this.events.addEventListener(what, act);
    }

    #tell(what) {
        this.events.dispatchEvent(new Event(what));
    }

    #changed() {
        this.#tell("changed");
        this.soon();
    }

    /** @param {string} name @param {any} value */
    set(name, value) {
        this.values[name] = value;
        this.keep();
    }

    /** Note a change that was made inside of the values. */
    keep() {
        try {
            localStorage.setItem(DRAFT, JSON.stringify(this.values));
        } catch {
            // A browser that keeps nothing only forgets the draft.
        }
        this.#changed();
    }

    /** @returns {Row[]} */
    get rows() {
        return this.values.rows ?? [];
    }

    /** Put variants in place of all rows. @param {{name: string, settings: Record<string, any>}[]} variants */
    replace(variants) {
        this.values.rows = variants.map((variant) => ({ on: true, ...structuredClone(variant) }));
        this.values.edited = false;
        this.#tell("rows");
        this.keep();
    }

    /** Add variants below, each under a name of its own. @param {{name: string, settings: Record<string, any>}[]} variants */
    add(variants) {
        for (const variant of variants) this.values.rows = [...this.rows, { on: true, ...structuredClone(variant), name: this.#free(variant.name) }];
        this.values.edited = true;
        this.#tell("rows");
        this.keep();
    }

    /** Take another name where the present one is taken: "study" is followed by "study-2". @param {string[]} taken */
    avoid(taken) {
        const [, base, count] = /^(.*?)(?:-(\d+))?$/.exec(this.values.name.trim());
        let name = this.values.name.trim();
        for (let number = Number(count ?? 1) + 1; taken.includes(name); number += 1) name = `${base}-${number}`;
        if (name !== this.values.name.trim()) this.set("name", name);
    }

    #free(wanted) {
        const taken = new Set(this.rows.map((row) => row.name));
        let name = wanted;
        for (let number = 2; taken.has(name); number += 1) name = `${wanted} ${number}`;
        return name;
    }

    /** @param {Row} row */
    remove(row) {
        this.values.rows = this.rows.filter((other) => other !== row);
        this.values.edited = true;
        this.#tell("rows");
        this.keep();
    }

    /** What the server is asked with. */
    body() {
        const { name, unit, amount, points, parameters, race, metric, confidence } = this.values;
        return {
            name: name.trim(),
            settings: this.#shared(),
            variants: this.rows.filter((row) => row.on).map((row) => ({ name: row.name, settings: row.settings })),
            budget: { unit, amount, points, parameters },
            race: race ? { enabled: true, metric, confidence } : {},
            seeds: this.seeds(),
            scores: this.#scores(),
        };
    }

    #shared() {
        const shared = Object.fromEntries(Object.entries(this.form.values()).filter(([path]) => !NOT_SHARED.test(path)));
        const prompts = lines(this.values.prompts);
        return prompts.length ? { ...shared, "preview.prompts": prompts } : shared;
    }

    /** Whole numbers; other text stays for the server to refuse. */
    seeds() {
        return this.values.seeds.split(/[,;\s]+/).filter(Boolean).map((text) => (/^\d+$/.test(text) ? Number(text) : text));
    }

    #scores() {
        const models = Object.entries(this.values.scorers).filter(([, model]) => model.trim());
        if (!models.length) return {};
        const prompts = lines(this.values.prompts);
        return { ...(prompts.length ? { pictures: { prompts } } : {}), ...Object.fromEntries(models.map(([scorer, model]) => [scorer, { model: model.trim(), ...METRICS[scorer] }])) };
    }

    /** What is still missing before a plan can be asked for; "" for nothing. @param {Record<string, string>} sentences */
    missing(sentences) {
        if (!this.form.get("dataset.folder")) return sentences.folder;
        if (!this.form.get("base.checkpoint")) return sentences.base;
        if (!this.rows.some((row) => row.on)) return sentences.rows;
        return "";
    }
}

/** One metric each, so that no two scorers measure the same on different scales. */
const METRICS = {
    dino: { metrics: ["fidelity", "drift"] },
    clip: { metrics: ["agreement"] },
    tagger: { metrics: ["bleeding"] },
};

/** @param {string} text */
function lines(text) {
    return text.split("\n").map((line) => line.trim()).filter(Boolean);
}

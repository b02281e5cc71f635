/** Sample images by step: a slider over steps, an image per prompt, enlarged on demand. */
import { open } from "../kit/dialog.js";
import { button, fill, h, setText, show } from "../kit/dom.js";
import { S, put } from "../kit/strings.js";

export class Samples {
    /** @param {import("../app.js").App} app */
    constructor(app) {
        this.app = app;
        this.run = "";
        /** @type {{step: number, file: string, prompt: string, index: number}[]} */
        this.entries = [];
        this.steps = [];
        this.slider = h("input", { type: "range", min: "0", step: "1", "aria-label": S.samples.step });
        this.label = h("output", { class: "al-output" });
        this.pictures = h("div", { class: "al-samples" });
        this.bar = h("div", { class: "al-row al-slider" }, h("span", {}, S.samples.step), this.slider, this.label);
        this.none = h("p", { class: "al-quiet" }, S.samples.none);
        this.slider.addEventListener("input", () => this.#draw());
        this.element = h("div", { class: "al-gallery" }, this.bar, this.none, this.pictures);
    }

    /** @param {string} run @param {any[]} entries all samples of a run */
    load(run, entries) {
        const newest = run !== this.run || Number(this.slider.value) === this.steps.length - 1;
        const shown = this.steps[Number(this.slider.value)];
        this.run = run;
        this.entries = entries;
        this.steps = [...new Set(entries.map((entry) => entry.step))].sort((a, b) => a - b);
        this.slider.max = String(Math.max(0, this.steps.length - 1));
        // Whoever looks at the newest goes on to the next newest; whoever looks back stays there.
        this.slider.value = String(newest ? this.steps.length - 1 : Math.max(0, this.steps.indexOf(shown)));
        show(this.bar, this.steps.length > 1);
        show(this.none, this.steps.length === 0);
        this.#draw();
    }

    #draw() {
        const step = this.steps[Number(this.slider.value)];
        const text = step === 0 ? S.samples.before : String(step ?? "");
        setText(this.label, text);
        this.slider.setAttribute("aria-valuetext", text);
        const key = `${this.run} ${step}`;
        const entries = this.entries.filter((entry) => entry.step === step).sort((a, b) => a.index - b.index);
        if (this.drawn === `${key} ${entries.length}`) return;
        this.drawn = `${key} ${entries.length}`;
        fill(this.pictures, entries.map((entry) => this.#figure(entry)));
    }

    #url(entry) {
        return this.app.api.url(`/runs/${encodeURIComponent(this.run)}/samples/${encodeURIComponent(entry.file)}`);
    }

    #figure(entry) {
        const image = h("img", { src: this.#url(entry), alt: entry.prompt, loading: "lazy" });
        const enlarge = h("button", { type: "button", class: "al-picture", "aria-label": put(S.samples.enlarge, entry.prompt), onclick: () => this.#enlarge(entry) }, image);
        return h("figure", {}, enlarge, h("figcaption", { title: entry.prompt }, entry.prompt));
    }

    /** One prompt in full size; the arrow keys and the slider go over the steps. */
    #enlarge(entry) {
        const same = this.entries.filter((other) => other.index === entry.index).sort((a, b) => a.step - b.step);
        const image = h("img", { alt: entry.prompt });
        const slider = h("input", { type: "range", min: "0", max: String(same.length - 1), step: "1", "aria-label": S.samples.step, value: String(same.indexOf(entry)) });
        const label = h("output", { class: "al-output" });
        const draw = () => {
            const now = same[Number(slider.value)];
            image.src = this.#url(now);
            setText(label, now.step === 0 ? S.samples.before : String(now.step));
        };
        slider.value = String(same.indexOf(entry));
        slider.addEventListener("input", draw);
        draw();
        const close = button(S.close, () => dialog.close());
        const dialog = open(h("div", { class: "al-enlarged" }, image, h("p", {}, entry.prompt), h("div", { class: "al-row al-slider" }, h("span", {}, S.samples.step), slider, label, close)), undefined, { "aria-label": entry.prompt });
        slider.focus();
    }
}

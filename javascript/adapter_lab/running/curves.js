/** The four charts of a run. */
import { Chart, smoothed } from "../kit/charts.js";
import { h } from "../kit/dom.js";
import { number, size } from "../kit/format.js";
import { S, put } from "../kit/strings.js";

const COLORS = ["--al-line-1", "--al-line-2", "--al-line-3", "--al-line-4", "--al-line-5", "--al-line-6"];
/** Steps of the memory axis: 64 MB to 64 GB. */
const BYTES = Array.from({ length: 11 }, (_, power) => 2 ** (26 + power));
/** As often as a person sees curves move: drawing four charts at every step of a fast training is felt by the training. */
const EVERY_MS = 500;
const PARTS = { unet: "UNet", te: "TE", te1: "TE 1", te2: "TE 2", conditioner: "Conditioner" };

export class Curves {
    /** @param {import("../server/series.js").Series} series */
    constructor(series) {
        this.series = series;
        this.loss = new Chart(S.charts.loss, S.charts.nothing, { format: number, height: 260 });
        this.rate = new Chart(S.charts.rate, S.charts.nothing, { format: number });
        this.speed = new Chart(S.charts.speed, S.charts.nothing, { format: number, fromZero: true });
        this.memory = new Chart(S.charts.memory, S.charts.nothing, { format: size, fromZero: true, increments: BYTES });
        this.weight = h("input", { type: "range", min: "0", max: "0.99", step: "0.01", value: "0.9", "aria-label": S.charts.smoothing });
        this.weight.addEventListener("input", () => this.draw());
        const smoothing = h("label", { class: "al-inline" }, h("span", {}, S.charts.smoothing), this.weight);
        this.loss.element.querySelector("figcaption").append(smoothing);
        this.element = h("div", { class: "al-charts" }, this.rate.element, this.speed.element, this.memory.element);
        this.pending = false;
    }

    /** Draw soon: many events draw once. */
    soon() {
        if (this.pending) return;
        this.pending = true;
        setTimeout(() => {
            this.pending = false;
            requestAnimationFrame(() => this.draw());
        }, EVERY_MS);
    }

    draw() {
        const { steps, loss, speed, memory, rates } = this.series;
        const smooth = smoothed(loss.mean, Number(this.weight.value));
        this.#drawLoss(steps, loss, smooth);
        const parts = [...rates];
        /** @type {import("../kit/charts.js").Line[]} */
        const lines = parts.map(([part], index) => ({ label: PARTS[part] ?? part, color: COLORS[index % COLORS.length] }));
        const cap = this.series.cap();
        if (cap) lines.push({ label: put(S.charts.cap, number(this.series.growth)), color: COLORS[1], width: 1.5, dash: [6, 6] });
        this.rate.call(this.series.estimates.size ? S.charts.estimatedRate : S.charts.rate);
        this.rate.draw(
            lines,
            [steps, ...parts.map(([, row]) => row), ...(cap ? [cap] : [])],
            parts.map(([, row]) => number(row.at(-1))).join(" / "),
        );
        this.speed.draw([{ label: S.charts.speed, color: COLORS[2] }], [steps, speed], number(speed.at(-1)));
        this.memory.draw([{ label: S.charts.memory, color: COLORS[3] }], [steps, memory], size(memory.at(-1)));
    }

    #drawLoss(steps, loss, smooth) {
        /** @type {import("../kit/charts.js").Line[]} */
        const lines = [
            { label: "max", color: "--al-band", width: 0, band: true, listed: false },
            { label: "min", color: "--al-band", width: 0, listed: false },
            { label: S.charts.raw, color: "--al-raw", width: 1 },
            { label: S.charts.smooth, color: COLORS[0], width: 2 },
        ];
        const data = [steps, loss.max, loss.min, loss.mean, smooth];
        const { validation } = this.series;
        if (validation.length) {
            const at = new Map(validation);
            // Validation happens after a step; a down-sampled reading may not hold that very step.
            const placed = steps.map((step, index) => {
                const from = index ? steps[index - 1] : 0;
                const found = validation.find(([when]) => when > from && when <= step);
                return at.get(step) ?? found?.[1] ?? null;
            });
            lines.push({ label: S.charts.validation, color: COLORS[1], width: 2, points: true });
            data.push(placed);
        }
        this.loss.draw(lines, data, number(smooth.at(-1)));
    }
}

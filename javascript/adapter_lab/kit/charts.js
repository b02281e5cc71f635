/** Line charts that take further points; colours are the host's, and change with its theme. */
import { h, setText } from "./dom.js";
import uPlot from "../vendor/uplot/uPlot.esm.js";

const HEIGHT = 180;

/**
 * @typedef {{label: string, color: string, width?: number, dash?: number[], points?: boolean, band?: boolean, listed?: boolean}} Line
 *   `listed`: in the legend; `color` is a CSS variable's name; `band`: this and the next line enclose a filled band and are not drawn themselves
 */

export class Chart {
    /**
     * @param {string} title @param {string} nothing shown while there are no points
     * @param {{format?: (value: number) => string, height?: number, fromZero?: boolean, increments?: number[]}} [options]
     *   `increments`: distances that ticks of the y axis may have
     */
    constructor(title, nothing, { format = String, height = HEIGHT, fromZero = false, increments = undefined } = {}) {
        this.format = format;
        this.height = height;
        this.fromZero = fromZero;
        this.increments = increments;
        this.place = h("div", { class: "al-plot" });
        this.last = h("b", { class: "al-chart-last" });
        this.empty = h("p", { class: "al-quiet" }, nothing);
        this.title = h("span", {}, title);
        this.element = h("figure", { class: "al-chart" }, h("figcaption", {}, this.title, this.last), this.empty, this.place);
        this.plot = null;
        this.key = "";
        this.lines = [];
        this.data = [[]];
        new ResizeObserver(() => this.#resize()).observe(this.place);
        new MutationObserver(() => this.#again()).observe(document.body, { attributes: true, attributeFilter: ["class"] });
    }

    /** Put another title over it. @param {string} title */
    call(title) {
        setText(this.title, title);
    }

    /** @param {Line[]} lines @param {(number|null)[][]} data x first, then a row per line @param {string} [last] */
    draw(lines, data, last = "") {
        this.lines = lines;
        this.data = data;
        const some = data[0].length > 0;
        this.empty.hidden = some;
        this.place.hidden = !some;
        setText(this.last, last);
        if (!some || !this.place.clientWidth) return;
        const key = lines.map((line) => line.label).join("|");
        if (this.plot && this.key === key) return this.plot.setData(data);
        this.key = key;
        this.plot?.destroy();
        this.plot = new uPlot(this.#options(), data, this.place);
    }

    #again() {
        if (!this.plot) return;
        this.key = "";
        this.draw(this.lines, this.data, this.last.textContent);
    }

    #resize() {
        const width = this.place.clientWidth;
        if (!width) return;
        if (!this.plot) this.draw(this.lines, this.data, this.last.textContent);
        else if (this.plot.width !== width) this.plot.setSize({ width, height: this.height });
    }

    #options() {
        const style = getComputedStyle(this.place);
        const color = (name) => style.getPropertyValue(name).trim() || "#888888";
        const quiet = color("--al-quiet");
        const axis = { stroke: quiet, grid: { stroke: color("--al-grid"), width: 1 }, ticks: { show: false }, font: `11px ${style.fontFamily}` };
        return {
            width: this.place.clientWidth,
            height: this.height,
            padding: [8, 10, 0, 0],
            legend: { show: this.lines.length > 1, live: true },
            cursor: { points: { size: 6 }, drag: { x: true, y: false } },
            scales: { x: { time: false }, y: this.fromZero ? { range: (_, __, high) => [0, 1.1 * (high || 1)] } : {} },
            axes: [
                { ...axis, size: 26, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? tick : "")) },
                { ...axis, size: 58, ...(this.increments && { incrs: this.increments }), values: (_, ticks) => ticks.map((tick) => this.format(tick)) },
            ],
            series: [{ label: "step" }, ...this.lines.map((line) => this.#series(line, color))],
            bands: this.lines.flatMap((line, index) => (line.band ? [{ series: [index + 1, index + 2], fill: color("--al-band") }] : [])),
        };
    }

    #series(line, color) {
        return {
            label: line.label,
            ...(line.listed === false && { class: "al-unlisted" }),
            stroke: color(line.color),
            width: line.width ?? 1.5,
            dash: line.dash,
            spanGaps: true,
            points: { show: Boolean(line.points), size: 6 },
            value: (_, value) => (value === null || value === undefined ? "–" : this.format(value)),
        };
    }
}

/**
 * Exponential moving average that forgets its start, as TensorBoard smooths.
 * @param {(number|null)[]} values @param {number} weight 0 (raw) to below 1
 */
export function smoothed(values, weight) {
    let sum = 0;
    let total = 0;
    return values.map((value) => {
        if (value === null || value === undefined) return null;
        sum = sum * weight + value * (1 - weight);
        total = total * weight + (1 - weight);
        return sum / total;
    });
}

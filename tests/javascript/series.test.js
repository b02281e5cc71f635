/** A run's numbers: readings of the server, events after them, and a run that goes on from an earlier step. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Series } from "../../javascript/adapter_lab/server/series.js";

const step = (at, loss, d) => ({ event: "step", step: at, loss, seconds_per_step: 1, memory_bytes: 5, rates: { unet: { lr: d * 2, d } } });

test("events follow a reading, and steps that are there already are not added again", () => {
    const series = new Series();
    series.load({ steps: [1, 2], columns: { loss: { mean: [0.5, 0.4] }, "lr/unet": { mean: [1, 1] } } });
    for (const event of [step(2, 9, 1), step(3, 0.3, 1)]) series.add(event);
    assert.deepEqual([series.steps, series.loss.mean, series.rates.get("unet"), series.live], [[1, 2, 3], [0.5, 0.4, 0.3], [1, 1, 2], 1]);
});

test("a part that comes later has nothing before", () => {
    const series = new Series();
    series.add(step(1, 0.5, 1));
    series.add({ ...step(2, 0.4, 1), rates: { unet: { lr: 2 }, te1: { lr: 3 } } });
    assert.deepEqual(series.rates.get("te1"), [null, 3]);
    assert.deepEqual(series.estimates.get("unet"), [1, null]);
});

test("a resumed run cuts off what is done again", () => {
    const series = new Series();
    for (let at = 1; at <= 5; at += 1) series.add(step(at, at, 1));
    series.add({ event: "validation", step: 4, loss: 1 });
    series.add({ event: "resumed", step: 3 });
    assert.deepEqual([series.steps, series.loss.max, series.rates.get("unet").length, series.validation], [[1, 2, 3], [1, 2, 3], 3, []]);
});

test("the cap is d0 times the growth per step, and missing without a limit", () => {
    const series = new Series();
    series.add({ event: "training", growth_rate: 1.5 });
    for (let at = 1; at <= 3; at += 1) series.add(step(at, 1, 1));
    assert.deepEqual(series.cap(), [2, 3, 4.5]);
    series.growth = 1;
    assert.equal(series.cap(), null);
});

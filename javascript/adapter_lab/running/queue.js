/** What waits to be trained: order, pause, remove. */
import { ask, attempt } from "../kit/dialog.js";
import { button, fill, h, show } from "../kit/dom.js";
import { S, put } from "../kit/strings.js";

/** @param {import("../app.js").App} app */
export function queuePanel(app) {
    const list = h("ol", { class: "al-queue" });
    const empty = h("p", { class: "al-quiet" }, S.queue.empty);
    const paused = h("p", { class: "al-warning" }, S.queue.paused);
    const toggle = button("", () => attempt(() => change({ paused: !app.store.queue.paused })));
    let drawn = "";

    async function change(values) {
        await app.api.put("/queue", values);
        await app.store.refresh();
    }

    function move(index, by) {
        const order = [...app.store.queue.order];
        const [id] = order.splice(index, 1);
        order.splice(index + by, 0, id);
        return attempt(() => change({ order }));
    }

    async function remove(id, name) {
        if (!(await ask({ title: put(S.queue.removeTitle, name), yes: S.queue.remove, danger: true }))) return;
        await attempt(async () => {
            await app.api.delete(`/queue/${encodeURIComponent(id)}`);
            await app.store.refresh();
        });
    }

    function draw() {
        const { order, paused: stopped } = app.store.queue;
        const rows = order.map((id) => app.store.runs.get(id) ?? { id, name: id, algo: S.queue.study });
        const key = JSON.stringify([stopped, rows.map((run) => [run.id, run.name, run.algo])]);
        // Not drawn again without a change: the focus would be lost.
        if (key === drawn) return;
        drawn = key;
        toggle.textContent = stopped ? S.queue.resume : S.queue.pause;
        show(paused, stopped);
        show(empty, order.length === 0);
        fill(
            list,
            rows.map((run, index) =>
                h(
                    "li",
                    { class: "al-row" },
                    h("b", {}, run.name),
                    h("span", { class: "al-chip" }, run.algo),
                    h("span", { class: "al-grow" }),
                    button("↑", () => move(index, -1), { "aria-label": `${S.queue.up}: ${run.name}`, title: S.queue.up, hidden: index === 0 }),
                    button("↓", () => move(index, 1), { "aria-label": `${S.queue.down}: ${run.name}`, title: S.queue.down, hidden: index === rows.length - 1 }),
                    button(S.queue.remove, () => remove(run.id, run.name), { "aria-label": `${S.queue.remove}: ${run.name}` }),
                ),
            ),
        );
    }

    app.store.on("queue", draw);
    app.store.on("runs", draw);
    draw();
    return h("section", { class: "al-card", "aria-label": S.queue.title }, h("div", { class: "al-row" }, h("h3", {}, S.queue.title), h("span", { class: "al-grow" }), toggle), paused, empty, list);
}

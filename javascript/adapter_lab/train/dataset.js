/** The report on the folder of images: thumbnails, buckets, captions, tags and warnings. */
import { debounced, fill, folded, h, table } from "../kit/dom.js";
import { fileName } from "../kit/format.js";
import { S, put } from "../kit/strings.js";

const PAUSE_MS = 700;
const THUMBNAILS = 16;
const LISTED = 50;

/** @param {import("../app.js").App} app @param {import("../server/form.js").Form} form */
export function datasetPanel(app, form) {
    const element = h("div", { class: "al-dataset", "aria-live": "polite", "aria-busy": "false" });
    const events = new EventTarget();
    const panel = { element, report: null, error: "", on: (act) => events.addEventListener("report", act) };
    let asked = "";
    let controller = null;
    const tell = () => events.dispatchEvent(new Event("report"));

    async function ask() {
        const values = relevant(form);
        const key = JSON.stringify(values);
        if (key === asked) return;
        asked = key;
        controller?.abort();
        panel.report = null;
        panel.error = "";
        if (!values["dataset.folder"]) {
            fill(element, h("p", { class: "al-quiet" }, S.dataset.empty));
            return tell();
        }
        controller = new AbortController();
        element.setAttribute("aria-busy", "true");
        fill(element, h("p", { class: "al-quiet al-waiting" }, S.dataset.reading));
        tell();
        try {
            panel.report = await app.api.post("/dataset/report", { settings: values }, controller.signal);
            fill(element, drawn(app, panel.report));
        } catch (error) {
            if (error.name === "AbortError") return;
            panel.error = error.message;
            fill(element, h("p", { class: "al-problem" }, error.message));
        }
        element.setAttribute("aria-busy", "false");
        tell();
    }

    const soon = debounced(PAUSE_MS, ask);
    form.on("changed", soon);
    panel.again = () => {
        asked = "";
        return ask();
    };
    ask();
    return panel;
}

/** The settings that the report depends on. @param {import("../server/form.js").Form} form */
function relevant(form) {
    const wanted = (path) =>
        path.startsWith("dataset.") || path.startsWith("base.") || ["run.batch_size", "optimizer.gradient_accumulation"].includes(path);
    return Object.fromEntries(Object.entries(form.values()).filter(([path]) => wanted(path)));
}

function drawn(app, report) {
    const fact = (value, what) => h("div", { class: "al-fact" }, h("b", {}, value), h("span", {}, what));
    const missing = report.without_caption.length;
    return [
        h(
            "div",
            { class: "al-facts" },
            fact(report.pictures, S.dataset.pictures),
            report.regularisation_pictures > 0 && fact(report.regularisation_pictures, S.dataset.regularisation),
            fact(report.buckets.length, S.dataset.buckets),
            fact(report.steps_per_epoch, S.dataset.stepsPerEpoch),
            fact(missing, S.dataset.withoutCaption),
            fact(report.skipped.length, S.dataset.skipped),
        ),
        thumbnails(app, report.examples ?? []),
        report.warnings.map((warning) => h("p", { class: "al-warning" }, warning)),
        tags(report.top_tags),
        h(
            "div",
            { class: "al-row al-wrap" },
            report.buckets.length > 0 && folded(S.dataset.bucketTable, bucketTable(report)),
            missing > 0 && folded(put(S.dataset.listMissing, missing), list(report.without_caption)),
            report.skipped.length > 0 && folded(put(S.dataset.listSkipped, report.skipped.length), list(report.skipped)),
        ),
    ];
}

function thumbnails(app, examples) {
    return h(
        "div",
        { class: "al-thumbnails" },
        examples.slice(0, THUMBNAILS).map(([path, caption]) =>
            h("img", {
                src: app.api.url("/dataset/thumbnail", { path, size: 160 }),
                alt: caption || fileName(path),
                title: `${fileName(path)}\n${caption || S.dataset.noCaption}`,
                loading: "lazy",
                class: caption ? "" : "al-missing",
            }),
        ),
    );
}

function tags(top) {
    if (!top.length) return null;
    return h("div", { class: "al-tags", "aria-label": S.dataset.topTags }, top.map(([tag, count]) => h("span", { class: "al-tag" }, h("span", {}, tag), h("b", {}, count))));
}

function bucketTable(report) {
    return table(
        [S.dataset.size, S.dataset.pictures, S.dataset.uses, S.dataset.batches],
        report.buckets.map((bucket) => [`${bucket.width} × ${bucket.height}`, bucket.pictures, bucket.uses, bucket.batches]),
    );
}

/** Path and remark of each, the first of many. */
function list(entries) {
    return h(
        "ul",
        { class: "al-list" },
        entries.slice(0, LISTED).map((entry) => {
            const [path, remark] = [entry].flat();
            return h("li", { title: path }, h("code", {}, fileName(path)), remark ? ` ${remark}` : "");
        }),
        entries.length > LISTED && h("li", { class: "al-quiet" }, put(S.dataset.andMore, entries.length - LISTED)),
    );
}

/** The base model: the web UI's list with the loaded model first, or a path. */
import { fill, h, show } from "../kit/dom.js";
import { S } from "../kit/strings.js";

const OTHER = "\u0000other";

/**
 * @param {import("../app.js").App} app @param {import("../server/form.js").Form} form
 * @returns {import("../kit/fields.js").Control}
 */
export function baseControl(app, form) {
    const input = h("select");
    const path = h("input", { type: "text", spellcheck: "false", "aria-label": S.train.otherBase, placeholder: S.train.basePath });
    let known = [];
    let byPath = false;
    const draw = () => {
        const value = form.get("base.checkpoint");
        const listed = known.some((entry) => entry.path === value);
        const other = byPath || (value !== "" && !listed);
        fill(
            input,
            !known.length && h("option", { value: "" }, S.train.noBases),
            known.length > 0 && value === "" && h("option", { value: "" }, S.train.chooseBase),
            known.map((entry) => h("option", { value: entry.path }, entry.loaded ? `${entry.title} (${S.train.loaded})` : entry.title)),
            h("option", { value: OTHER }, S.train.otherBase),
        );
        input.value = other ? OTHER : value;
        if (document.activeElement !== path) path.value = other ? value : "";
        show(path, other);
    };
    input.addEventListener("change", () => {
        byPath = input.value === OTHER;
        if (!byPath) form.set("base.checkpoint", input.value);
        draw();
        if (byPath) path.focus();
    });
    path.addEventListener("input", () => form.set("base.checkpoint", path.value.trim()));
    const load = async () => {
        known = await app.api.get("/checkpoints").catch(() => []);
        // The first is the one that the web UI has loaded: what a person means who chooses none.
        if (form.get("base.checkpoint") === "" && known.length) form.set("base.checkpoint", known[0].path);
        draw();
    };
    load();
    input.addEventListener("focus", load);
    return { element: h("div", { class: "al-stack" }, input, path), input, write: draw };
}

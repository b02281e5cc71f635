/** Import of kohya's files: what became of them, and what could not be carried over. */
import { ask, say } from "../kit/dialog.js";
import { fill, h } from "../kit/dom.js";
import { S, put } from "../kit/strings.js";

/** @param {import("../app.js").App} app @param {import("../server/form.js").Form} form */
export async function importDialog(app, form) {
    const input = h("input", { type: "file", multiple: true, accept: ".toml,.json,.txt", "aria-label": S.importing.files });
    const shown = h("div", { "aria-live": "polite" });
    /** @type {{settings: Record<string, any>, left_out: string[], ignored: string[], missing: string[]}|null} */
    let imported = null;
    let chosen = 0;
    input.addEventListener("change", async () => {
        const choice = ++chosen;
        imported = null;
        const files = await Promise.all([...input.files].map(async (file) => ({ name: file.name, content: await file.text() })));
        try {
            const found = await app.api.post("/import", { files });
            if (choice !== chosen) return; // others were chosen meanwhile
            imported = found;
            fill(shown, drawn(imported));
        } catch (error) {
            if (choice === chosen) fill(shown, h("p", { class: "al-problem" }, error.message));
        }
    });
    const yes = await ask({
        title: S.importing.title,
        text: S.importing.text,
        yes: S.importing.use,
        content: h("div", { class: "al-stack" }, input, shown),
    });
    if (!yes) return;
    const found = /** @type {typeof imported} */ (imported); // set by the listener above
    if (!found) return say(S.importing.none, "bad");
    form.replace(found.settings);
    say(put(S.importing.done, Object.keys(found.settings).length));
}

function drawn(imported) {
    return [
        h("p", {}, put(S.importing.understood, Object.keys(imported.settings).length)),
        imported.left_out.length > 0 && listed(S.importing.leftOut, imported.left_out),
        imported.ignored.length > 0 && listed(S.importing.ignored, imported.ignored),
        imported.missing.length > 0 && listed(S.importing.missing, imported.missing),
    ];
}

/** @param {string} title @param {string[]} sentences */
function listed(title, sentences) {
    return h("div", {}, h("b", {}, `${title} (${sentences.length})`), h("ul", { class: "al-list" }, sentences.map((text) => h("li", {}, text))));
}

/** Proposes a run's name from the folder of images until a person gives one; a taken name gets a number. */
import { fileName } from "../kit/format.js";

export class NameProposal {
    /** @param {import("../app.js").App} app @param {import("../server/form.js").Form} form */
    constructor(app, form) {
        this.app = app;
        this.form = form;
        this.taken = new Set();
        this.proposed = form.get("run.name");
        this.own = "run.name" in form.changed && !isProposal(form.get("run.name"), form.get("dataset.folder"));
        form.on("changed", (event) => {
            if (event.detail.includes("run.name")) this.own = form.get("run.name") !== this.proposed;
            if (event.detail.includes("dataset.folder")) this.propose();
        });
    }

    /** Ask which names are taken, by files or by runs that will write files. */
    async refresh() {
        const files = await this.app.api.get("/adapters").catch(() => []);
        const runs = [...this.app.store.runs.values()].map((run) => run.name);
        // "name-000200" is a step of "name".
        this.taken = new Set([...files.map((file) => file.name.split("/").pop().replace(/-\d{6}$/, "")), ...runs]);
        this.propose();
    }

    propose() {
        const base = slug(this.form.get("dataset.folder"));
        if (this.own || !base) return;
        let name = base;
        for (let number = 2; this.taken.has(name); number += 1) name = `${base}-${number}`;
        this.proposed = name;
        if (name !== this.form.get("run.name")) this.form.set("run.name", name);
    }
}

/** The folder's own name as a file name; kohya's "10_name" is "name". @param {string} folder */
function slug(folder) {
    return fileName(folder.trim())
        .replace(/^\d+_/, "")
        .replace(/[^\p{L}\p{N}_-]+/gu, "-")
        .replace(/^-+|-+$/g, "")
        .slice(0, 60);
}

function isProposal(name, folder) {
    const base = slug(folder);
    return base !== "" && (name === base || (name.startsWith(`${base}-`) && /^\d+$/.test(name.slice(base.length + 1))));
}

/** Draws Adapter Lab into its container. */
import { App } from "./app.js";
import { fill, h } from "./kit/dom.js";
import { S } from "./kit/strings.js";

/** @param {HTMLElement} container @param {string} root where the web UI answers, ending in a slash */
export async function mount(container, root) {
    fill(container, h("p", { class: "al-quiet" }, S.loading));
    const app = new App(root);
    try {
        await app.store.load();
    } catch (error) {
        fill(container, h("p", { class: "al-problem", role: "alert" }, error.message));
        // Tried again by the boot script; a server that is still starting answers soon.
        setTimeout(() => delete container.dataset.mounted, 3000);
        return;
    }
    app.draw(container);
}

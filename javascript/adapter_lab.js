// Loaded by web UIs as a classic script at their start: waits until the tab is looked at, then imports the page.
"use strict";

(() => {
    const CONTAINER = "adapter_lab";
    const CHECK_EVERY_MS = 400;

    /** Where the web UI answers, with a slash at its end: also below a sub-path. */
    const root = () => location.origin + location.pathname.replace(/\/?$/, "/");

    const visible = (node) => node.offsetParent !== null;

    async function mount(container) {
        container.dataset.mounted = "yes";
        try {
            const page = await import(`${root()}adapter-lab/v1/static/main.js`);
            await page.mount(container, root());
        } catch (error) {
            console.error("[Adapter Lab]", error);
            container.textContent =
                "Adapter Lab's page could not be loaded. Reload the page; if that does not help, the console of the " +
                "web UI says why.";
            delete container.dataset.mounted;
            await new Promise((resolve) => setTimeout(resolve, 5000));
        }
    }

    // gradio may draw a tab late, or draw it again; looking for one id is cheaper than observing the whole page.
    let busy = false;
    setInterval(async () => {
        const container = document.getElementById(CONTAINER);
        if (busy || !container || container.dataset.mounted || !visible(container)) return;
        busy = true;
        await mount(container);
        busy = false;
    }, CHECK_EVERY_MS);
})();

// Loaded by web UIs as a classic script at their start: Generate asks first while a training has the GPU, where the
// Settings page says so. Requests to the API have nobody to ask; the web UI's side of it is hosts/gpu_handover.py.
"use strict";

(() => {
    const BUTTONS = "#txt2img_generate, #img2img_generate, #txt2img_upscale";
    const QUESTION = "A training is running. Making pictures now slows both down and may run out of memory. Go on all the same?";

    const root = () => location.origin + location.pathname.replace(/\/?$/, "/");
    /** What web UIs and their extensions keep in the page. @type {any} */
    const page = window;
    const translated = (text) => page.localization?.[text] || text;

    let allowed = ""; // the training beside which images were allowed: asked about once
    let asking = false;
    let passing = false;

    /** The training that is to be asked about: {id, name, progress}, or null. A server that does not say so has none. */
    async function training() {
        // With a header of our own the browser does not ask for the --api-auth of somebody who only wants an image;
        // whoever has opened the tab has given it already.
        const headers = document.getElementById("adapter_lab")?.dataset.mounted ? {} : { Authorization: "none" };
        try {
            const answer = await fetch(`${root()}adapter-lab/v1/generating`, { headers, signal: AbortSignal.timeout(3000) });
            return answer.ok ? (await answer.json()).ask : null;
        } catch {
            return null;
        }
    }

    async function mayGenerate() {
        const run = await training();
        if (!run || run.id === allowed) return true;
        if (!confirm(`${translated(QUESTION)}\n\n${run.name}: ${Math.floor(100 * run.progress)}%`)) {
            clearInterval(page.generateOnRepeatInterval); // "Generate forever" would ask twice a second
            return false;
        }
        allowed = run.id;
        return true;
    }

    // Before the web UI's own listeners, also for clicks that its shortcuts make.
    document.addEventListener(
        "click",
        async (event) => {
            /** @type {HTMLElement|null} */
            const button = event.target instanceof Element ? event.target.closest(BUTTONS) : null;
            if (!button || passing) return;
            event.preventDefault();
            event.stopImmediatePropagation();
            if (asking) return;
            asking = true;
            const may = await mayGenerate();
            asking = false;
            if (!may) return;
            passing = true;
            try {
                button.click();
            } finally {
                passing = false;
            }
        },
        true,
    );
})();

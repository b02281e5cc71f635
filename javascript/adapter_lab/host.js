/** What the page uses of the web UI around it: the prompt box of txt2img, where there is one. */

const PROMPT = "#txt2img_prompt textarea";

/** Whether the web UI has a txt2img prompt. */
export function hasPrompt() {
    return Boolean(document.querySelector(PROMPT));
}

const PASTE = "#paste";
const CSV_MODE = "#script_txt2img_xyz_plot_csv_mode input[type=checkbox]";

/** Whether the web UI has an X/Y/Z plot that can be filled. */
export function hasPlot() {
    return hasPrompt() && Boolean(document.querySelector(PASTE));
}

/**
 * Fill txt2img and its X/Y/Z plot from a picture's infotext, with the web UI's own button for it, and go there.
 * @param {string} infotext
 */
export function sendToPlot(infotext) {
    const csv = document.querySelector(CSV_MODE);
    if (csv && !csv.checked) csv.click(); // ranges and shares are no values of a drop-down
    const box = document.querySelector(PROMPT);
    box.value = infotext;
    box.dispatchEvent(new Event("input", { bubbles: true }));
    // The web UI reads the box when it is pressed, and hears of what was put into it a moment later.
    setTimeout(() => document.querySelector(PASTE).click(), 200);
    showTxt2img();
}

/** Put `tag` at the end of txt2img's prompt and go there. @param {string} tag */
export function sendToPrompt(tag) {
    const box = document.querySelector(PROMPT);
    if (!box.value.includes(tag)) {
        box.value = box.value.trim() ? `${box.value.trimEnd()} ${tag}` : tag;
        // gradio hears of it by the event only.
        box.dispatchEvent(new Event("input", { bubbles: true }));
    }
    showTxt2img();
}

function showTxt2img() {
    const tab = [...document.querySelectorAll("#tabs > .tab-nav > button, #tabs > .tab-wrapper button[role=tab]")].find((node) => node.textContent.trim().toLowerCase() === "txt2img");
    if (typeof window.switch_to_txt2img === "function") window.switch_to_txt2img();
    else tab?.click();
}

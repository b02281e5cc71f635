/** What the page uses of the web UI around it: the prompt box of txt2img, where there is one. */

const PROMPT = "#txt2img_prompt textarea";

/** Whether the web UI has a txt2img prompt. */
export function hasPrompt() {
    return Boolean(document.querySelector(PROMPT));
}

const PASTE = "#paste";
const CSV_MODE = "#script_txt2img_xyz_plot_csv_mode input[type=checkbox]";
/** An element of the web UI's page that has a value. @param {string} selector @returns {HTMLInputElement|null} */
const field = (selector) => document.querySelector(selector);
/** A field of the X/Y/Z plot, such as x_type. @param {string} name */
const plotField = (name) => field(`#script_txt2img_xyz_plot_${name} :is(textarea, input)`);
/** How long the web UI may take to fill in the plot, after which silence it has, and how often is looked. */
const FILLED_MS = 30000;
const SETTLED_MS = 5000;
const LOOK_MS = 250;

/** Whether the web UI has an X/Y/Z plot that can be filled. */
export function hasPlot() {
    return hasPrompt() && Boolean(document.querySelector(PASTE));
}

/**
 * Fill txt2img and its X/Y/Z plot from an image's infotext, with the web UI's own button for it, and go there.
 * @param {string} infotext
 */
export function sendToPlot(infotext) {
    const csv = field(CSV_MODE);
    if (csv && !csv.checked) csv.click(); // ranges and shares are no values of a drop-down
    const box = field(PROMPT);
    box.value = infotext;
    box.dispatchEvent(new Event("input", { bubbles: true }));
    // The web UI reads the box when it is pressed, and hears of what was put into it a moment later.
    setTimeout(() => {
        field(PASTE).click();
        keepValues(infotext);
    }, 200);
    showTxt2img();
}

/**
 * See to it that the plot has the values that the infotext gives: web UIs take those out that no drop-down offers, such
 * as ranges, shares and names of runs, when the type of the axis changes.
 * @param {string} infotext
 */
function keepValues(infotext) {
    const given = new Map([...infotext.matchAll(/([XYZ]) (Type|Values): ("(?:[^"\\]|\\.)*"|[^,]*)/g)].map(([, letter, what, text]) => [`${letter.toLowerCase()}_${what.toLowerCase()}`, text.startsWith('"') ? JSON.parse(text) : text]));
    const axes = ["x", "y", "z"].filter((axis) => given.has(`${axis}_type`));
    const end = Date.now() + FILLED_MS;
    let wrong = Date.now(); // when something was last not as given: an answer under way may still change it
    const look = () => {
        for (const axis of axes) {
            const values = plotField(`${axis}_values`);
            const chosen = plotField(`${axis}_type`)?.value === given.get(`${axis}_type`);
            if (chosen && values?.value === given.get(`${axis}_values`)) continue;
            wrong = Date.now();
            if (!chosen || !values) continue;
            values.value = given.get(`${axis}_values`);
            values.dispatchEvent(new Event("input", { bubbles: true }));
        }
        if (Date.now() < end && Date.now() - wrong <= SETTLED_MS) setTimeout(look, LOOK_MS);
    };
    look();
}

/** Put `tag` at the end of txt2img's prompt and go there. @param {string} tag */
export function sendToPrompt(tag) {
    const box = field(PROMPT);
    if (!box.value.includes(tag)) {
        box.value = box.value.trim() ? `${box.value.trimEnd()} ${tag}` : tag;
        // gradio hears of it by the event only.
        box.dispatchEvent(new Event("input", { bubbles: true }));
    }
    showTxt2img();
}

function showTxt2img() {
    /** @type {NodeListOf<HTMLElement>} */
    const tabs = document.querySelectorAll("#tabs > .tab-nav > button, #tabs > .tab-wrapper button[role=tab]");
    const tab = [...tabs].find((node) => node.textContent.trim().toLowerCase() === "txt2img");
    const { switch_to_txt2img: go } = /** @type {any} */ (window); // of the web UI
    if (typeof go === "function") go();
    else tab?.click();
}

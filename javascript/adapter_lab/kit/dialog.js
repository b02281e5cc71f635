/** Questions and enlarged images in dialogs, and messages that screen readers announce. */
import { button, fill, h } from "./dom.js";
import { S } from "./strings.js";

/** @type {HTMLElement} */
let place;
/** @type {HTMLElement} */
let live;

/** The places of dialogs and messages, made once per page. @returns {HTMLElement[]} */
export function places() {
    place = h("div", { class: "al-dialogs" });
    live = h("div", { class: "al-messages", role: "status", "aria-live": "polite" });
    return [live, place];
}

const SECONDS = { good: 6, bad: 15 };

/** Say something in the corner and to screen readers. @param {string} text @param {"good"|"bad"} [kind] */
export function say(text, kind = "good") {
    const gone = () => message.remove();
    const close = h("button", { type: "button", class: "al-close", "aria-label": S.close, onclick: gone }, "×");
    const message = h("div", { class: `al-message al-${kind}` }, h("span", {}, text), close);
    live.append(message);
    while (live.children.length > 4) live.firstChild.remove();
    setTimeout(gone, SECONDS[kind] * 1000);
}

/** Do something and say in its words why it failed. @template T @param {() => Promise<T>} act @returns {Promise<T|undefined>} */
export async function attempt(act) {
    try {
        return await act();
    } catch (error) {
        if (error.name !== "AbortError") say(error.message, "bad");
        return undefined;
    }
}

/**
 * Ask, and resolve to what was chosen: false when closed.
 * @param {{title: string, text?: string, yes: string, danger?: boolean, content?: any, result?: () => any}} question
 *   `result` gives what "yes" resolves to, true without it
 * @returns {Promise<any>}
 */
export function ask({ title, text, yes, danger = false, content, result }) {
    return new Promise((resolve) => {
        let answer = false;
        const form = h(
            "form",
            { method: "dialog" },
            h("h3", { id: "al-dialog-title" }, title),
            text && h("p", {}, text),
            content,
            h(
                "div",
                { class: "al-actions" },
                h("button", { class: `al-button ${danger ? "al-danger" : "al-primary"}`, type: "submit" }, yes),
                button(S.cancel, () => dialog.close()),
            ),
        );
        form.addEventListener("submit", () => (answer = result ? result() : true));
        const dialog = open(form, () => resolve(answer), { "aria-labelledby": "al-dialog-title" });
    });
}

/** Show `content` in a dialog of its own. @param {any} content @param {() => void} [closed] @param {Record<string, any>} [props] */
export function open(content, closed = () => {}, props = {}) {
    const dialog = h("dialog", { class: "al-dialog", ...props }, content);
    dialog.addEventListener("close", () => {
        dialog.remove();
        closed();
    });
    fill(place, dialog);
    dialog.showModal();
    return dialog;
}

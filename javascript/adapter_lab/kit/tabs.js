/** A list of tabs with their panels, as the ARIA practices describe them. */
import { h, show } from "./dom.js";

/** @typedef {{key: string, title: string, panel: HTMLElement, shown?: () => void, hidden?: () => void}} Tab */

export class Tabs {
    /** @param {Tab[]} tabs @param {string} label @param {(key: string) => void} [changed] */
    constructor(tabs, label, changed = () => {}) {
        this.tabs = tabs;
        this.changed = changed;
        this.chosen = null;
        this.buttons = new Map(tabs.map((tab) => [tab.key, this.#button(tab)]));
        this.list = h("div", { class: "al-tabs", role: "tablist", "aria-label": label }, ...this.buttons.values());
        this.list.addEventListener("keydown", (event) => this.#key(event));
        const panels = tabs.map((tab) => {
            tab.panel.setAttribute("role", "tabpanel");
            tab.panel.setAttribute("aria-labelledby", `al-tab-${tab.key}`);
            tab.panel.id = `al-panel-${tab.key}`;
            return tab.panel;
        });
        this.element = h("div", { class: "al-tabbed" }, this.list, ...panels);
    }

    #button(tab) {
        return h(
            "button",
            {
                type: "button",
                role: "tab",
                id: `al-tab-${tab.key}`,
                "aria-controls": `al-panel-${tab.key}`,
                onclick: () => this.choose(tab.key),
            },
            h("span", {}, tab.title),
            h("span", { class: "al-badge", hidden: true }),
        );
    }

    /** A short remark beside a tab's title, empty for none. @param {string} key @param {string} text */
    badge(key, text) {
        const badge = /** @type {HTMLElement} */ (this.buttons.get(key).querySelector(".al-badge"));
        badge.textContent = text;
        show(badge, Boolean(text));
    }

    /** @param {string} key */
    choose(key) {
        const before = this.chosen;
        this.chosen = key;
        for (const tab of this.tabs) {
            const chosen = tab.key === key;
            const node = this.buttons.get(tab.key);
            node.setAttribute("aria-selected", String(chosen));
            node.tabIndex = chosen ? 0 : -1;
            show(tab.panel, chosen);
        }
        if (before === key) return;
        this.tabs.find((tab) => tab.key === before)?.hidden?.();
        this.tabs.find((tab) => tab.key === key)?.shown?.();
        this.changed(key);
    }

    #key(event) {
        const keys = this.tabs.map((tab) => tab.key);
        const at = keys.indexOf(this.chosen);
        const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: keys.length - 1 }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        const key = keys[(to + keys.length) % keys.length];
        this.choose(key);
        this.buttons.get(key).focus();
    }
}

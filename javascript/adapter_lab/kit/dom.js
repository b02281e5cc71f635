/** Elements without a framework: make them, change them, ask in a dialog. Text is always a plain text node. */

/**
 * Make an element.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, any>} [props] `on...` functions are listeners; true, false and null set or leave attributes;
 *   `value` and `checked` are set as properties; everything else is an attribute.
 * @param {...any} children nodes, texts, arrays of them; null and false are left out
 * @returns {HTMLElementTagNameMap[T]}
 */
export function h(tag, props = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(props ?? {})) {
        if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
        else if (name === "value" || name === "checked") node[name] = value;
        else if (value === true) node.setAttribute(name, "");
        else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
    }
    node.append(...flat(children));
    return node;
}

/** @param {any[]} children @returns {(Node|string)[]} */
function flat(children) {
    return children
        .flat(Infinity)
        .filter((child) => child !== null && child !== undefined && child !== false)
        .map((child) => (child instanceof Node ? child : String(child)));
}

/** Put `children` in place of what `node` holds. @param {Element} node @param {...any} children */
export function fill(node, ...children) {
    node.replaceChildren(...flat(children));
    return node;
}

const written = new WeakMap();

/**
 * Show `text` in `node`. The same text again is not written: a localization of the host may have replaced it.
 * @param {Element} node @param {any} text
 */
export function setText(node, text) {
    const shown = String(text ?? "");
    if (written.get(node) === shown) return;
    written.set(node, shown);
    node.textContent = shown;
}

/** @param {HTMLElement} node @param {boolean} visible */
export function show(node, visible) {
    node.hidden = !visible;
}

/**
 * A button.
 * @param {string} label
 * @param {(event: Event) => any} act what it does; while a promise it returns is pending, the button is disabled
 * @param {Record<string, any>} [props] `kind`: primary, danger or plain
 */
export function button(label, act, { kind = "plain", ...props } = {}) {
    const node = h("button", { type: "button", class: `al-button al-${kind}`, ...props }, label);
    node.addEventListener("click", async (event) => {
        if (node.getAttribute("aria-disabled") === "true") return;
        // aria-disabled instead of disabled: the focus stays where the keyboard left it.
        node.setAttribute("aria-disabled", "true");
        try {
            await act(event);
        } finally {
            node.removeAttribute("aria-disabled");
        }
    });
    return node;
}

/** A card with a heading. @param {string} title @param {...any} children */
export function card(title, ...children) {
    return h("section", { class: "al-card", "aria-label": title }, h("h3", {}, title), ...children);
}

/** A part that is folded away at first. @param {string} title @param {...any} children */
export function folded(title, ...children) {
    return h("details", { class: "al-folded" }, h("summary", {}, title), h("div", { class: "al-folded-body" }, ...children));
}

/** A table. @param {any[]} head @param {any[][]} rows @param {string} [caption] */
export function table(head, rows, caption = "") {
    return h(
        "div",
        { class: "al-table" },
        h(
            "table",
            {},
            caption && h("caption", {}, caption),
            h("thead", {}, h("tr", {}, head.map((cell) => h("th", { scope: "col" }, cell)))),
            h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell))))),
        ),
    );
}

/** Call `act` once calls have paused for `milliseconds`. @param {number} milliseconds @param {(...values: any[]) => any} act */
export function debounced(milliseconds, act) {
    let timer = 0;
    return (...values) => {
        clearTimeout(timer);
        timer = setTimeout(() => act(...values), milliseconds);
    };
}

/** Folders that were trained on before, offered while a path is typed. Kept by this browser only. */
import { h } from "../kit/dom.js";

const KEPT = "adapter-lab-folders";
const MOST = 12;

/** @returns {string[]} */
function kept() {
    try {
        return JSON.parse(localStorage.getItem(KEPT) ?? "[]");
    } catch {
        return [];
    }
}

/** @param {HTMLElement} field the field of a folder */
export function recentFolders(field) {
    const input = field.querySelector("input");
    const list = h("datalist", { id: "al-recent-folders" });
    input.setAttribute("list", list.id);
    const draw = () => list.replaceChildren(...kept().map((path) => h("option", { value: path })));
    draw();
    field.append(list);
    return {
        element: field,
        remember() {
            const path = input.value.trim();
            if (!path) return;
            localStorage.setItem(KEPT, JSON.stringify([path, ...kept().filter((other) => other !== path)].slice(0, MOST)));
            draw();
        },
    };
}

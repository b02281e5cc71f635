/** Numbers for people, and from people. */

const UNITS = ["bytes", "KB", "MB", "GB", "TB"];

/** 1248680 -> "1.19 MB" (1024 bytes are a KB, as file managers count). @param {number|null|undefined} bytes */
export function size(bytes) {
    if (bytes === null || bytes === undefined) return "–";
    let unit = 0;
    let value = bytes;
    while (Math.round(value) >= 1024 && unit < UNITS.length - 1) {
        value /= 1024;
        unit += 1;
    }
    return `${unit === 0 || value >= 100 ? Math.round(value) : value.toPrecision(3)} ${UNITS[unit]}`;
}

/** 3725 -> "1 h 2 min". @param {number|null|undefined} seconds */
export function duration(seconds) {
    if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
    if (Math.round(seconds) < 60) return `${Math.round(seconds)} s`;
    const minutes = Math.round(seconds / 60);
    if (minutes < 60) return `${minutes} min`;
    return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Three digits, with an exponent where that is shorter. @param {number|null|undefined} value */
export function number(value) {
    if (value === null || value === undefined || !Number.isFinite(value)) return "–";
    if (value === 0 || (Math.abs(value) >= 0.001 && Math.abs(value) < 100000)) return String(Number(value.toPrecision(3)));
    return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
}

/** Seconds since 1970 -> the computer's own way to write it. @param {number|null|undefined} seconds */
export function moment(seconds) {
    if (!seconds) return "–";
    return new Date(seconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

/** A value of a setting on one line. @param {any} value */
export function plain(value) {
    if (value === null || value === undefined || value === "") return "–";
    if (typeof value === "boolean") return value ? "yes" : "no";
    if (Array.isArray(value)) return value.length ? value.map((item) => (typeof item === "object" ? JSON.stringify(item) : item)).join(", ") : "–";
    if (typeof value === "number") return Number.isInteger(value) ? String(value) : number(value);
    return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/**
 * A number where the text is one, also with a decimal comma; other text as it is, so that the server says what is wrong.
 * @template T @param {string} text @param {T} fallback what empty text stands for
 */
export function readNumber(text, fallback) {
    const trimmed = text.trim().replace(/^(-?\d+),(\d+)$/, "$1.$2");
    if (trimmed === "") return fallback;
    const value = Number(trimmed);
    return Number.isFinite(value) ? value : text;
}

/** The last part of a path. @param {string} path */
export function fileName(path) {
    return path.split(/[\\/]/).filter(Boolean).pop() ?? path;
}

/** Talks to the web UI's `/adapter-lab/v1`: JSON, and events while something runs. */
import { S } from "../kit/strings.js";

/** What the server refused, in its words; `problems` name settings. */
export class ApiError extends Error {
    /** @param {string} message @param {number} status @param {{setting: string, message: string}[]} problems */
    constructor(message, status, problems = []) {
        super(message);
        this.status = status;
        this.problems = problems;
    }
}

const RETRY_MS = 2000;

export class Api {
    /** @param {string} root where the web UI answers, ending in a slash */
    constructor(root) {
        this.base = `${root}adapter-lab/v1`;
    }

    /** @param {string} path @param {Record<string, any>} [query] */
    url(path, query = {}) {
        const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
        return this.base + path + (given.length ? `?${new URLSearchParams(given)}` : "");
    }

    /** @param {string} path @param {Record<string, any>} [query] */
    get(path, query = {}) {
        return this.#request("GET", this.url(path, query));
    }

    /** @param {string} path @param {any} [body] @param {AbortSignal} [signal] */
    post(path, body = {}, signal = undefined) {
        return this.#request("POST", this.url(path), body, signal);
    }

    /** @param {string} path @param {any} [body] */
    put(path, body = {}) {
        return this.#request("PUT", this.url(path), body);
    }

    /** @param {string} path @param {Record<string, any>} [query] */
    delete(path, query = {}) {
        return this.#request("DELETE", this.url(path, query), {});
    }

    async #request(method, url, body = undefined, signal = undefined) {
        const headers = { Accept: "application/json" };
        if (body !== undefined) {
            headers["Content-Type"] = "application/json";
            // A page of another site cannot send this header without being asked for permission first.
            headers["X-Adapter-Lab"] = "1";
        }
        let answer;
        try {
            answer = await fetch(url, { method, headers, signal, body: body && JSON.stringify(body), credentials: "same-origin" });
        } catch (error) {
            if (error.name === "AbortError") throw error;
            throw new ApiError(S.errors.unreachable, 0);
        }
        const values = await answer.json().catch(() => null);
        if (answer.ok) return values;
        throw new ApiError(sentence(values, answer.status), answer.status, values?.problems);
    }

    /**
     * Listen to events until `close` is called; a lost connection is made again and goes on after the last event.
     * @param {(after: number|null) => string} address the URL, given the id of the last event received
     * @param {(value: any, id: number|null) => void} receive
     * @param {(connected: boolean) => void} [state]
     * @returns {{close: () => void}}
     */
    listen(address, receive, state = () => {}) {
        let last = null;
        let closed = false;
        let source = null;
        let timer = 0;
        const connect = () => {
            source = new EventSource(address(last), { withCredentials: true });
            source.onopen = () => state(true);
            source.onmessage = (message) => {
                if (message.lastEventId) last = Number(message.lastEventId);
                receive(JSON.parse(message.data), last);
            };
            source.addEventListener("end", () => {
                closed = true;
                source.close();
            });
            source.onerror = () => {
                source.close();
                if (closed) return;
                state(false);
                timer = setTimeout(connect, RETRY_MS);
            };
        };
        connect();
        return {
            close() {
                closed = true;
                clearTimeout(timer);
                source.close();
            },
        };
    }
}

function sentence(values, status) {
    if (typeof values?.error === "string") return values.error;
    if (status === 401 || status === 403) return S.errors.signedOut;
    return S.errors.unexpected.replace("{status}", String(status));
}

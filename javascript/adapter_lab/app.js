/** The page: its sub-tabs, what they share, and the connection that is held while someone looks. */
import { Api } from "./server/api.js";
import { attempt, places } from "./kit/dialog.js";
import { fill, h, show } from "./kit/dom.js";
import { filesView } from "./files/files.js";
import { runningView } from "./running/running.js";
import { runsView } from "./runs/runs.js";
import { Store } from "./server/store.js";
import { S, put } from "./kit/strings.js";
import { studyView } from "./study/study.js";
import { Tabs } from "./kit/tabs.js";
import { trainView } from "./train/train.js";

/** The sub-tabs: a further one is a row here. @type {[string, string, (app: App) => {element: HTMLElement, shown?: () => void, hidden?: () => void}][]} */
const VIEWS = [
    ["train", S.train.tab, trainView],
    ["running", S.running.tab, runningView],
    ["runs", S.runs.tab, runsView],
    ["study", S.study.tab, studyView],
    ["files", S.files.tab, filesView],
];
const CHOSEN = "adapter-lab-tab";
const WATCH_EVERY_MS = 1000;

export class App {
    /** @param {string} root */
    constructor(root) {
        this.api = new Api(root);
        this.store = new Store(this.api);
        /** @type {Record<string, any>} */
        this.views = {};
    }

    /** @param {HTMLElement} container */
    draw(container) {
        this.container = container;
        const [live, dialogs] = places();
        const banner = h("div", { class: "al-banner", role: "alert", hidden: true });
        const tabs = VIEWS.map(([key, title, make]) => {
            const view = make(this);
            this.views[key] = view;
            return { key, title, panel: h("div", { class: "al-panel" }, view.element), shown: view.shown, hidden: view.hidden };
        });
        this.tabs = new Tabs(tabs, S.tabs, (key) => sessionStorage.setItem(CHOSEN, key));
        const style = h("link", { rel: "stylesheet", href: this.api.url("/static/vendor/uplot/uPlot.min.css") });
        fill(container, style, banner, this.tabs.element, live, dialogs);
        this.store.on("connected", () => this.#banner(banner));
        this.store.on("runs", () => this.#badge());
        this.store.on("queue", () => this.#badge());
        this.#banner(banner);
        this.#badge();
        const kept = sessionStorage.getItem(CHOSEN);
        this.tabs.choose(this.views[kept] ? kept : "train");
        this.#watch();
    }

    #banner(banner) {
        const { environment } = this.store.status;
        const lost = !this.store.connected;
        show(banner, lost || !environment.ready);
        if (lost) fill(banner, S.errors.reconnecting);
        else if (!environment.ready) fill(banner, environment.message, " ", S.errors.notReady, " ", h("code", {}, environment.run));
    }

    #badge() {
        const active = this.store.active();
        this.tabs.badge("running", active ? put("{0}%", Math.floor(100 * (active.progress ?? 0))) : "");
        this.tabs.badge("study", this.store.studies() ? S.study.now : "");
    }

    /** Hold the connection while the tab is looked at, and drop it when not: browsers allow a web UI six in all. */
    #watch() {
        let before = null;
        const check = () => {
            const looking = !document.hidden && this.container.isConnected && this.container.offsetParent !== null;
            if (looking === before) return;
            before = looking;
            this.store.watch(looking);
            this.looking = looking;
            this.views.running.looking(looking);
            if (looking) attempt(() => this.store.refresh());
        };
        document.addEventListener("visibilitychange", check);
        setInterval(check, WATCH_EVERY_MS);
        check();
    }

    /** Show a run; one that only waits is shown in the queue. @param {string} id @param {boolean} [follow] */
    openRun(id, follow = true) {
        if (follow) this.views.running.open(id);
        else this.views.running.follow();
        this.tabs.choose("running");
    }
}

/* Behind the header's summary: what Auto takes for the loaded model, and a preset that may fit better. */
(() => {
    const TABS = ["txt2img", "img2img"];
    const NAMES = ["preset", "method", "start", "end"];
    const OF_PAGE = ["steps", "cfg_scale"];
    const REFUSED = [401, 403, 404]; /* for good; a proxy's 502 is over when the server is back */
    const PAUSE = 3000; /* ms until the same is asked again: the model may be another one by then */

    const element = (tab, name) => gradioApp().getElementById(`script_${tab}_nag_${name}`);
    const input = (block) => block?.querySelector("input[type=number]") ?? block?.querySelector("input");
    const value = (block) => (input(block)?.value ?? "").trim();
    const host = (tab, name) => gradioApp().getElementById(`${tab}_${name}`);
    const asked = {}; /* by tab: {query, at, answer, refused} */

    const query = (tab) => new URLSearchParams({
        ...Object.fromEntries(NAMES.map((name) => [name, value(element(tab, name))])),
        ...Object.fromEntries(OF_PAGE.map((name) => [name, value(host(tab, name))])),
    }).toString();

    const show = (tab) => {
        const {line, hint} = asked[tab]?.answer ?? {};
        const text = [line, hint].filter(Boolean).join(" · ");
        if (!element(tab, "auto") && element(tab, "summary")) {
            const made = Object.assign(document.createElement("span"), {id: `script_${tab}_nag_auto`});
            made.style.cssText = "margin-left: 0.75em; opacity: 0.65;";
            element(tab, "summary").after(made);
        }
        if (element(tab, "auto") && element(tab, "auto").textContent !== text) {
            element(tab, "auto").textContent = text;
        }
    };

    const ask = async (tab, what) => {
        const one = {query: what, at: Date.now(), answer: asked[tab]?.answer}; /* no flicker meanwhile */
        asked[tab] = one;
        try {
            /* With credentials the browser would ask for a password where --api-auth guards the route. */
            const response = await fetch(`./nag/v1/auto?${what}`, {credentials: "omit"});
            one.answer = response.ok ? await response.json() : null;
            one.refused = REFUSED.includes(response.status);
        } catch {
            one.answer = null;
        }
        show(tab);
    };

    const refresh = (tab) => {
        const summary = element(tab, "summary")?.textContent ?? "";
        if (!summary || summary.startsWith("off: ")) {
            delete asked[tab];
        } else if (asked[tab]?.refused) {
            return;
        } else if (query(tab) !== asked[tab]?.query || Date.now() - asked[tab].at >= PAUSE) {
            ask(tab, query(tab));
        } else {
            refreshIn(PAUSE - (Date.now() - asked[tab].at));
        }
        show(tab);
    };

    let timer = null, due = Infinity;
    const refreshIn = (pause) => {
        if (Date.now() + pause < due) {
            clearTimeout(timer);
            due = Date.now() + pause;
            timer = setTimeout(() => { due = Infinity; TABS.forEach(refresh); }, pause);
        }
    };

    onUiLoaded(() => {
        const refreshSoon = () => refreshIn(100);
        const listen = (block) => block?.addEventListener("input", refreshSoon);
        TABS.forEach((tab) => OF_PAGE.forEach((name) => listen(host(tab, name))));
        document.addEventListener("nag-changed", refreshSoon);
        onAfterUiUpdate(refreshSoon);
    });
})();

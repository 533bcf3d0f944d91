/* What extensions' scripts expect of a host page: gradioApp, onUiLoaded, onAfterUiUpdate, ticking accordions. */
(() => {
    const QUIET_MS = 200;
    const listeners = {loaded: [], updated: [], after: [], tab: []};
    let loaded = false;
    let timer = null;

    const call = (callbacks, argument) => {
        for (const callback of callbacks) {
            try {
                callback(argument);
            } catch (error) {
                console.error("error running callback", callback, error);
            }
        }
    };

    window.gradioApp = () => document;
    window.onUiLoaded = (callback) => (loaded ? callback() : listeners.loaded.push(callback));
    window.onUiUpdate = (callback) => listeners.updated.push(callback);
    window.onAfterUiUpdate = (callback) => listeners.after.push(callback);
    window.onUiTabChange = (callback) => listeners.tab.push(callback);
    window.onOptionsChanged = () => {};
    window.updateInput = (target) => target.dispatchEvent(new Event("input", {bubbles: true}));

    /* An accordion made by InputAccordion: a visible tick in its header mirrors a hidden checkbox. */
    const setUpAccordion = (accordion) => {
        const header = accordion.querySelector(".label-wrap");
        const hidden = document.querySelector(`#${accordion.id}-checkbox input`);
        if (!header || !hidden || accordion.tick) {
            return;
        }
        const tick = document.createElement("input");
        tick.type = "checkbox";
        tick.id = `${accordion.id}-visible-checkbox`;
        tick.className = `${hidden.className} input-accordion-checkbox`;
        tick.checked = hidden.checked;
        accordion.tick = tick;
        const send = () => {
            if (hidden.checked !== tick.checked) {
                hidden.click();
            }
        };
        let linked = true;
        tick.addEventListener("click", (event) => {
            linked = false;
            event.stopPropagation();
        });
        tick.addEventListener("input", send);
        /* Until the tick itself is used, opening by the header switches on and closing switches off. */
        header.addEventListener("click", (event) => {
            if (linked && event.target !== tick) {
                tick.checked = !header.classList.contains("open");
                send();
            }
        }, true);
        header.querySelector("span").prepend(tick);
        const extra = document.getElementById(`${accordion.id}-extra`);
        if (extra) {
            header.insertBefore(extra, header.lastElementChild);
        }
    };

    window.inputAccordionChecked = (id, checked) => {
        const accordion = document.getElementById(id);
        if (accordion && accordion.tick) {
            accordion.tick.checked = checked;
        }
    };

    const changed = (mutations) => {
        document.querySelectorAll(".input-accordion").forEach(setUpAccordion);
        if (!loaded && document.getElementById("txt2img_generate")) {
            loaded = true;
            call(listeners.loaded);
        }
        call(listeners.updated, mutations);
        clearTimeout(timer);
        timer = setTimeout(() => call(listeners.after), QUIET_MS);
    };

    const start = () => {
        new MutationObserver(changed).observe(document.body, {childList: true, subtree: true});
        changed([]);
    };
    /* gradio adds a page's scripts after the document is there, extensions' ones right behind this one. */
    if (document.readyState === "loading") {
        document.addEventListener("DOMContentLoaded", start);
    } else {
        setTimeout(start);
    }
})();

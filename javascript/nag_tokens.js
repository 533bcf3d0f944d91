/* The host's token counter at NAG's own boxes, by the host's own functions; nothing where it has none. */
(() => {
    const TABS = ["txt2img", "img2img"];
    const BOXES = ["negative", "negatives"];

    const element = (tab, name) => gradioApp().getElementById(`script_${tab}_nag_${name}`);
    const each = (run) => TABS.forEach((tab) => BOXES.forEach((name) => {
        const parts = [name, `${name}_counter`, `${name}_count`].map((part) => element(tab, part));
        if (parts.every(Boolean) && parts[0].querySelector("textarea")) {
            run(parts.map((part) => part.id), ...parts);
        }
    }));

    // The host puts a counter at the top of what holds the box, which may hold others before it.
    const setUp = (ids, box, counter) => {
        setupTokenCounting(...ids);
        box.insertBefore(counter, box.firstChild);
        box.style.position = "relative";
        counter.style.top = "0";
    };

    if (typeof setupTokenCounting === "function" && typeof toggleTokenCountingVisibility === "function") {
        onUiLoaded(() => each(setUp));
        onOptionsChanged(() => each((ids) => toggleTokenCountingVisibility(...ids)));
    }
})();

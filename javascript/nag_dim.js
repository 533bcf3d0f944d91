/* Dims what changes nothing, says what the method does not read, shows VSF's offset with VSF only. */
(() => {
    const TABS = ["txt2img", "img2img"];
    const STRENGTHS = ["scale", "tau", "alpha"]; /* ignored unless the preset is Custom */
    const READERS = { /* the methods that read it */
        tau: ["NAG", "No refinement"], hires_tau: ["NAG", "No refinement"],
        alpha: ["NAG", "No normalisation"], hires_alpha: ["NAG", "No normalisation"],
    };
    const NEUTRAL = {start: "0", end: "1", method: "NAG", hires: "Both", hires_scale: "0", hires_tau: "0",
                     hires_alpha: "0"};

    const element = (tab, name) => gradioApp().getElementById(`script_${tab}_nag_${name}`);
    const value = (block) => {
        const input = block?.querySelector("input[type=number]") ?? block?.querySelector("input, textarea");
        const text = (input?.value ?? "").trim(), number = parseFloat(text);
        return Number.isNaN(number) ? text : String(number);
    };

    const dim = (block, opacity) => {
        for (const part of block?.children ?? []) {
            /* gradio's loading overlay lies over the block and stays as it is. */
            if (part.style.position !== "absolute" && part.style.opacity !== opacity) {
                part.style.opacity = opacity;
            }
        }
    };

    const markUnread = (block, methods, method) => {
        if (block) {
            block.title = methods.includes(method) || !method ? "" : `${method} does not read this`;
            if (block.title) {
                dim(block, "0.45");
            }
        }
    };

    const refresh = (tab) => {
        const preset = value(element(tab, "preset")), method = value(element(tab, "method"));
        const isNeutral = (name) => value(element(tab, name)) === NEUTRAL[name];
        Object.keys(NEUTRAL).forEach((name) => dim(element(tab, name), isNeutral(name) ? "0.7" : ""));
        STRENGTHS.forEach((name) => dim(element(tab, name), preset !== "Custom" ? "0.45" : ""));
        Object.keys(READERS).forEach((name) => markUnread(element(tab, name), READERS[name], method));
        const offset = element(tab, "vsf_offset");
        if (offset) {
            offset.style.display = method === "VSF" ? "" : "none";
        }
    };

    let timer = null;
    const refreshSoon = () => {
        clearTimeout(timer);
        timer = setTimeout(() => TABS.forEach(refresh), 50);
    };

    onUiLoaded(() => {
        document.addEventListener("nag-changed", refreshSoon); /* the panel's, of what no hand changed */
        onAfterUiUpdate(refreshSoon);
        TABS.forEach((tab) => element(tab, "enabled")?.addEventListener("input", refreshSoon));
    });
})();

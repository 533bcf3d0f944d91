/* Behind the accordion's label: what NAG is set to. Dims what changes nothing. No value depends on it. */
(() => {
    const TABS = ["txt2img", "img2img"];
    const STRENGTHS = ["scale", "tau", "alpha"]; /* ignored unless the preset is Custom */
    const NUMBERS = [...STRENGTHS, "start", "end", "hires_scale", "hires_tau", "hires_alpha"];
    const READERS = { /* the methods that read it */
        tau: ["NAG", "No refinement"], hires_tau: ["NAG", "No refinement"],
        alpha: ["NAG", "No normalisation"], hires_alpha: ["NAG", "No normalisation"],
    };
    const TEXTS = ["preset", "method", "hires", "curve"];
    const MODELS = ["Auto", "Few-step"]; /* their φ is that of the model that is loaded by then */
    const NEUTRAL = {start: 0, end: 1, method: "NAG", hires: "Both", hires_scale: 0, hires_tau: 0,
                     hires_alpha: 0};

    const element = (tab, name) => gradioApp().getElementById(`script_${tab}_nag_${name}`);
    const number = (tab, name) => parseFloat(element(tab, name)?.querySelector("input[type=number]")?.value);
    const text = (tab, name) => (element(tab, name)?.querySelector("input, textarea")?.value ?? "").trim();
    const read = (tab) => Object.fromEntries([
        ...NUMBERS.map((name) => [name, number(tab, name)]),
        ...TEXTS.map((name) => [name, text(tab, name)]),
    ]);

    const whyOff = ({preset, scale, alpha, method, start, end, curve}) => {
        if (preset === "Custom" && scale === 0 && !curve.includes(":")) { /* points replace the scale */
            return "scale is 0";
        }
        if (preset === "Custom" && alpha === 0 && READERS.alpha.includes(method)) {
            return "alpha is 0";
        }
        return end <= start ? `the window ${start}–${end} is empty` : "";
    };

    const summary = (values) => {
        const {preset, scale, start, end, method} = values;
        const reason = whyOff(values);
        return reason ? `off: ${reason}` : [
            preset,
            MODELS.includes(preset) ? "" : `φ ${scale}`,
            start === 0 && end === 1 ? "" : `${start}–${end}`,
            method === "NAG" ? "" : method,
        ].filter(Boolean).join(" · ");
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
        const place = element(tab, "summary");
        if (!place) {
            return;
        }
        const values = read(tab);
        const isOn = element(tab, "enabled-visible-checkbox")?.checked && values.preset;
        const line = isOn ? summary(values) : "";
        if (place.textContent !== line) {
            place.textContent = line;
        }
        Object.keys(NEUTRAL).forEach((k) => dim(element(tab, k), values[k] === NEUTRAL[k] ? "0.7" : ""));
        STRENGTHS.forEach((k) => dim(element(tab, k), values.preset !== "Custom" ? "0.45" : ""));
        Object.keys(READERS).forEach((k) => markUnread(element(tab, k), READERS[k], values.method));
        const offset = element(tab, "vsf_offset");
        if (offset) {
            offset.style.display = values.method === "VSF" ? "" : "none";
        }
    };

    let timer = null;
    const refreshSoon = () => {
        clearTimeout(timer);
        timer = setTimeout(() => TABS.forEach(refresh), 50);
    };

    onUiLoaded(() => {
        TABS.filter((tab) => !element(tab, "summary")).forEach((tab) => {
            const place = Object.assign(document.createElement("span"), {id: `script_${tab}_nag_summary`});
            place.style.cssText = "margin-left: 0.75em; opacity: 0.65;";
            element(tab, "enabled")?.querySelector(".label-wrap > span")?.append(place);
            element(tab, "enabled")?.addEventListener("input", refreshSoon);
        });
        document.addEventListener("nag-changed", refreshSoon); /* the panel's, of what no hand changed */
        onAfterUiUpdate(refreshSoon);
    });
})();

/* Behind the accordion's label: what NAG is set to. No value depends on it. */
(() => {
    const TABS = ["txt2img", "img2img"];
    const NUMBERS = ["scale", "alpha", "start", "end"];
    const READ_ALPHA = ["NAG", "No normalisation"]; /* the methods */
    const TEXTS = ["preset", "method", "curve"];
    const MODELS = ["Auto", "Few-step"]; /* their φ is that of the model that is loaded by then */

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
        if (preset === "Custom" && alpha === 0 && READ_ALPHA.includes(method)) {
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

// <kdoct-slider data-frames="...">: controls over drawings that were all made beforehand, so no kernel is needed.
// data-frames: base64 of deflated JSON {name, height, controls: [{label, kind, values, start}], drawings, uris, frames}.
// Until this runs, and where it cannot (GitHub, an untrusted notebook), readers see the note inside the element.
customElements.get("kdoct-slider") || customElements.define("kdoct-slider", class KdoctSlider extends HTMLElement {
  static {
    // A notebook would take arrows and letters for its own shortcuts; what the browser does with them goes on.
    window.addEventListener("keydown", (event) => {
      const shortcut = event.ctrlKey || event.metaKey || event.altKey;
      if (event.target instanceof KdoctSlider && !shortcut) event.stopPropagation();
    }, true);
  }

  async connectedCallback() {
    if (this.started || !window.DecompressionStream) return; // JupyterLab takes cells off the page and puts them back
    this.started = true;
    const bytes = Uint8Array.from(atob(this.dataset.frames), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    this.build(JSON.parse(await new Response(stream).text()));
  }

  build({name, height, controls, drawings, uris, frames}) {
    const make = (tag, parent, settings) => parent.appendChild(Object.assign(document.createElement(tag), settings));
    const root = this.attachShadow({mode: "open"}); // hides the note, keeps the page's styles out
    make("style", root, {textContent: `
      label { display: grid; grid-template-columns: minmax(6em, 11em) minmax(8em, 20em) auto; gap: .8em; padding: .2em 0 }
      label > * { align-self: center }
      input { width: 100%; margin: 0; accent-color: #1a73e8 }
      select, button { font: inherit; color: #000; background: #fff; border: 1px solid #666; border-radius: 3px }
      select, button { padding: .1em .7em; justify-self: start; max-width: 100% }
      :focus-visible { outline: 3px solid #1a73e8; outline-offset: 2px }
      .drawing { height: ${height}px; margin-top: .5em; overflow: auto; color: #000; background: #fff }
      svg { max-width: 100% }`});
    const group = make("div", root, {role: "group", ariaLabel: "Slider: " + name});
    const inputs = controls.map(({label, kind, values, start}) => {
      const row = make("label", group);
      make("span", row, {textContent: label});
      if (kind === "choice") {
        const select = make("select", row);
        values.forEach((textContent, value) => make("option", select, {textContent, value}));
        select.value = start;
        return select;
      }
      const input = make("input", row, {type: "range", min: 0, max: values.length - 1, value: start});
      input.shown = make("output", row, {ariaHidden: "true"}); // spoken as the slider's own value
      return input;
    });
    const reset = make("button", group, {type: "button", textContent: "Reset", title: "Back to the start values"});
    // on a narrow page a drawing scrolls, and what scrolls must be reached by keyboard
    const area = make("div", group, {className: "drawing", ariaLive: "polite", tabIndex: 0});
    const draw = () => {
      let frame = 0;
      inputs.forEach((input, i) => {
        const values = controls[i].values, place = Number(input.value);
        frame = frame * values.length + place;
        if (input.shown) input.ariaValueText = input.shown.textContent = values[place];
      });
      area.innerHTML = drawings[frames[frame]].replace(/\x1a(\d+);/g, (_, number) => uris[number]);
    };
    group.oninput = draw;
    reset.onclick = () => {
      inputs.forEach((input, i) => { input.value = controls[i].start; });
      draw();
    };
    draw();
  }
});

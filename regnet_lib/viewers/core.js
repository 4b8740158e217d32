// What all viewers share: unpacking, colors, controls. A slice is drawn by plane.js, one file per kind
// draws the rest.
// Arrays keep the order of the library: voxel (i, j, k) of a volume (D, H, W), k running fastest.

const OKABE_ITO = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"];
const FOLDED = 0xffff00ff; // magenta, as in the figures

// ---------------------------------------------------------------- small tools
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), letter => letter.charCodeAt(0));
}

// The inverse of `pack` in page.py: inflate, then sum up the differences.
async function unpack({ shape, bytes }) {
  const stream = new Blob([bytesOf(bytes)])
    .stream()
    .pipeThrough(new DecompressionStream("deflate"));
  const data = new Uint8Array(await new Response(stream).arrayBuffer());
  for (let n = 1; n < data.length; n++) data[n] += data[n - 1];
  return { shape, data };
}

async function unpackAll(packed) {
  const entries = Object.entries(packed);
  const volumes = await Promise.all(entries.map(([, one]) => unpack(one)));
  return Object.fromEntries(entries.map(([name], n) => [name, volumes[n]]));
}

// 256 colors as the 32-bit numbers that a canvas stores (alpha, blue, green, red).
function colorTable(base64) {
  const rgb = bytesOf(base64);
  return Uint32Array.from(
    { length: 256 },
    (_, n) => (0xff000000 | (rgb[3 * n + 2] << 16) | (rgb[3 * n + 1] << 8) | rgb[3 * n]) >>> 0,
  );
}

function mix(first, second, weight) {
  let mixed = 0xff000000;
  for (const shift of [0, 8, 16]) {
    const one = (first >>> shift) & 255,
      two = (second >>> shift) & 255;
    mixed |= Math.round(one + (two - one) * weight) << shift;
  }
  return mixed >>> 0;
}

// Linear interpolation at any position; outside is the nearest voxel.
function sample(data, [depth, height, width], i, j, k, offset = 0) {
  i = clamp(i, 0, depth - 1);
  j = clamp(j, 0, height - 1);
  k = clamp(k, 0, width - 1);
  const i0 = i | 0,
    j0 = j | 0,
    k0 = k | 0,
    a = i - i0,
    b = j - j0,
    c = k - k0;
  const down = i0 < depth - 1 ? height * width : 0,
    next = j0 < height - 1 ? width : 0;
  const right = k0 < width - 1 ? 1 : 0,
    at = offset + (i0 * height + j0) * width + k0;
  const line = n => data[n] * (1 - c) + data[n + right] * c;
  const face = n => line(n) * (1 - b) + line(n + next) * b;
  return face(at) * (1 - a) + face(at + down) * a;
}

// A displacement as `pack_field` of page.py stores it: a coarse grid between the same corners.
class Field {
  static async load({ packed, longest }, full) {
    const {
      shape: [, ...shape],
      data,
    } = await unpack(packed);
    const ratio = shape.map((side, axis) => (side - 1) / (full[axis] - 1));
    return Object.assign(new Field(), {
      data,
      shape,
      ratio,
      longest,
      size: shape[0] * shape[1] * shape[2],
    });
  }
  vector([i, j, k]) {
    const [a, b, c] = this.ratio;
    return [0, 1, 2].map(
      component =>
        ((sample(this.data, this.shape, i * a, j * b, k * c, component * this.size) - 128) / 127) *
        this.longest,
    );
  }
}

// ---------------------------------------------------------------- a viewer
// A kind of viewer extends this: load() its data, build() its parts, paint() one plane, say() a line.
class View {
  constructor(root, content) {
    [this.root, this.content, this.planes, this.choices] = [root, content, [], []];
    this.colors = Object.fromEntries(
      Object.entries(content.colorMaps).map(([name, table]) => [name, colorTable(table)]),
    );
    this.position = content.start || this.middle();
  }
  async start() {
    await this.load();
    this.bar = element("div", { class: "rg-bar" });
    this.words = element("p", { class: "rg-words", role: "status", "aria-live": "polite" });
    this.stage = element("div", { class: "rg-stage" });
    this.root.setAttribute("role", "group");
    this.root.setAttribute("data-lm-suppress-shortcuts", "true"); // keys are ours, not JupyterLab's
    this.root.setAttribute("aria-label", this.content.title);
    this.build();
    this.root.replaceChildren(
      element("p", { class: "rg-title" }, this.content.title),
      this.bar,
      this.stage,
      this.words,
      element("p", { class: "rg-hint" }, this.hint()),
    );
    this.draw();
    new ResizeObserver(() => this.draw()).observe(this.root);
  }
  hint() {
    return (
      "Click or drag in a plane. Then: wheel or page keys for slices, arrow keys for the crosshair, Home for the middle" +
      (this.choices.length ? `, digits for \u201c${this.choices[0].label}\u201d.` : ".")
    );
  }
  middle() {
    return this.content.grid.shape.map(size => size >> 1);
  }
  index([i, j, k]) {
    const { shape } = this.content.grid;
    return (i * shape[1] + j) * shape[2] + k;
  }
  moveTo(place) {
    const { shape } = this.content.grid,
      next = place.map((value, axis) => clamp(value, 0, shape[axis] - 1));
    const moved = next.some((value, axis) => value !== this.position[axis]);
    this.position = next;
    if (moved) {
      this.moved();
      this.draw();
    }
    return moved;
  }
  moved() {}
  positionOf() {
    return this.position;
  }
  draw() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      for (const plane of this.planes) this.paint(plane);
      this.words.textContent = this.say();
    });
  }
  // Three planes, all on one scale of millimeters.
  addPlanes(name = "", passive = false) {
    const { shape, spacing } = this.content.grid,
      side = axis => shape[axis] * spacing[axis];
    const planes = [0, 1, 2].map(axis => new Plane(this, axis, name, passive));
    this.planes.push(...planes);
    const row = element("div", { class: "rg-planes" }, ...planes.map(plane => plane.figure));
    row.style.setProperty("--columns", planes.map(plane => `${side(plane.across)}fr`).join(" "));
    row.style.setProperty(
      "--two",
      planes
        .slice(0, 2)
        .map(plane => `${side(plane.across)}fr`)
        .join(" "),
    );
    this.stage.append(row);
    return planes;
  }
  addChoice(label, options, value, changed) {
    const select = element(
      "select",
      {
        "aria-label": label,
        onchange: () => {
          changed(select.value);
          this.draw();
        },
      },
      ...Object.entries(options).map(([key, text]) => element("option", { value: key }, text)),
    );
    select.value = value;
    changed(value);
    this.choices.push({ label, select });
    this.bar.append(element("label", {}, label, select));
    return select;
  }
  choose(number) {
    const select = this.choices[0] && this.choices[0].select;
    if (!select || number >= select.options.length) return false;
    select.selectedIndex = number;
    return select.dispatchEvent(new Event("change"));
  }
  addSlider(label, [low, high, step], value, changed) {
    const input = element("input", {
      type: "range",
      "aria-label": label,
      min: low,
      max: high,
      step,
      oninput: () => {
        changed(+input.value);
        this.draw();
      },
    });
    input.value = value;
    changed(value);
    this.bar.append(element("label", {}, label, input));
    return input;
  }
  addCheck(label, value, changed) {
    const input = element("input", {
      type: "checkbox",
      onchange: () => {
        changed(input.checked);
        this.draw();
      },
    });
    input.checked = value;
    changed(value);
    this.bar.append(element("label", {}, input, label));
    return input;
  }
  addButton(label, pressed) {
    const button = element("button", { type: "button", onclick: pressed }, label);
    this.bar.append(button);
    return button;
  }
  // A color bar with words at its ends.
  addScale(name, low, high) {
    const rgb = n => {
      const c = this.colors[name][n];
      return `rgb(${c & 255},${(c >> 8) & 255},${(c >> 16) & 255})`;
    };
    const stops = Array.from({ length: 17 }, (_, n) => rgb(Math.min(255, n * 16)));
    const bar = element("span", { class: "rg-scale", role: "presentation" });
    bar.style.background = `linear-gradient(90deg,${stops})`;
    const box = element("p", { class: "rg-legend" }, low, bar, high);
    this.stage.append(box);
    return box;
  }
  place() {
    return `voxel (${this.position.join(", ")})`;
  }
  // Intensities as they were before they became bytes.
  intensity(byte) {
    const { low, high } = this.content.images;
    return (low + (byte / 255) * (high - low)).toPrecision(3);
  }
}

// Put a viewer into each place that waits for it, as soon as it comes near the screen.
function mount(Kind, key, content) {
  for (const root of document.querySelectorAll(`[data-viewer="${key}"]:not([data-state])`)) {
    root.dataset.state = "waiting";
    const near = new IntersectionObserver(
      async ([entry]) => {
        if (!entry.isIntersecting) return;
        near.disconnect();
        const began = performance.now();
        try {
          root.view = new Kind(root, content);
          await root.view.start();
          requestAnimationFrame(() =>
            requestAnimationFrame(() => {
              root.dataset.milliseconds = Math.round(performance.now() - began);
              root.dataset.state = "ready";
            }),
          );
        } catch (error) {
          root.dataset.state = "failed"; // the still picture stays
          console.error(error);
        }
      },
      { rootMargin: "400px" },
    );
    near.observe(root);
  }
}

// A solid seen by rays: each screen pixel marches through the volume until it meets the surface
// (anatomy.py). Plain JavaScript, because a page must also work where there is no WebGL.
class AnatomyView extends View {
  async load() {
    this.image = (await unpackAll(this.content.images.volumes)).fixed;
    this.labels = (await unpackAll(this.content.labels.volumes)).fixed.data;
    this.colored = await unpackAll(this.content.colored);
    [this.turn, this.tilt, this.zoom] = [0.8, 0.35, 1];
    this.whole = this.solid(label => label > 0);
  }
  build() {
    const { names, grid, ranges } = this.content,
      structures = { all: "whole anatomy" };
    names.forEach((name, label) => {
      if (label) structures[label] = name;
    });
    this.addChoice("Structure", structures, "all", value => {
      this.only = value !== "all";
      this.surface = this.only ? this.solid(label => label === +value) : this.whole;
    });
    this.addChoice(
      "Color",
      { length: "displacement |u|", determinant: "Jacobian determinant", none: "none" },
      "length",
      value => {
        this.coloring = value;
        this.legend();
      },
    );
    const axes = { none: "none" };
    grid.planes.forEach((plane, axis) => {
      axes[axis] = plane;
    });
    this.addChoice("Cut", axes, "none", value => {
      this.cutAxis = value;
    });
    this.addSlider("at", [0, 1, 0.01], 0.5, value => {
      this.cut = value;
    });
    this.canvas = element("canvas", {
      class: "rg-solid",
      tabindex: 0,
      role: "application",
      "aria-roledescription": "3-D view",
      "aria-label": "3-D view of the fixed anatomy. Arrow keys turn it, plus and minus zoom.",
      onpointerdown: event => {
        this.canvas.focus({ preventScroll: true });
        this.canvas.setPointerCapture(event.pointerId);
      },
      onpointermove: event =>
        event.buttons && this.rotate(-event.movementX * 0.01, event.movementY * 0.01),
      onkeydown: event => this.key(event),
    });
    this.canvas.addEventListener(
      "wheel",
      event => {
        if (document.activeElement !== this.canvas || event.ctrlKey) return;
        event.preventDefault();
        this.scale(event.deltaY < 0 ? 1.1 : 1 / 1.1);
      },
      { passive: false },
    );
    this.small = element("canvas");
    this.stage.append(this.canvas);
    this.scales = {
      length: this.addScale("length", "|u| 0", `${ranges.length[1]} voxels or more`),
      determinant: this.addScale(
        "volume",
        `determinant ${ranges.determinant[0].toFixed(2)}`,
        ranges.determinant[1].toFixed(2),
      ),
    };
    this.legend();
  }
  hint() {
    return "Drag to turn. After a click: arrow keys turn, wheel or plus and minus zoom, Home for the first view, digits for \u201cStructure\u201d.";
  }
  legend() {
    for (const [name, box] of Object.entries(this.scales || {}))
      box.hidden = name !== this.coloring;
  }
  rotate(turn, tilt) {
    this.turn += turn;
    this.tilt = clamp(this.tilt + tilt, -1.5, 1.5);
    this.draw(true);
  }
  scale(factor) {
    this.zoom = clamp(this.zoom * factor, 0.6, 4);
    this.draw(true);
  }
  key(event) {
    const turns = {
      ArrowLeft: [0.15, 0],
      ArrowRight: [-0.15, 0],
      ArrowUp: [0, 0.15],
      ArrowDown: [0, -0.15],
    };
    if (turns[event.key]) this.rotate(...turns[event.key]);
    else if (event.key === "+" || event.key === "=") this.scale(1.1);
    else if (event.key === "-") this.scale(1 / 1.1);
    else if (event.key === "Home") {
      [this.turn, this.tilt, this.zoom] = [0.8, 0.35, 1];
      this.draw();
    } else if (/^[1-9]$/.test(event.key) && this.choose(event.key - 1)) {
      /* done */
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
  // A membership of 0 or 255, blurred over 3x3x3 voxels so that its surface is smooth.
  solid(member) {
    const { shape } = this.content.grid,
      strides = [shape[1] * shape[2], shape[2], 1];
    let inside = Uint8Array.from(this.labels, label => (member(label) ? 255 : 0));
    for (const round of [0, 1])
      for (const stride of strides) {
        const blurred = new Uint8Array(inside.length);
        for (let n = stride; n < inside.length - stride; n++)
          blurred[n] = (inside[n - stride] + 2 * inside[n] + inside[n + stride]) >> 2;
        inside = blurred;
      }
    return inside;
  }
  // Coarse while the hand moves, sharp when it rests.
  draw(moving = false) {
    clearTimeout(this.later);
    if (this.pending) cancelAnimationFrame(this.pending);
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      if (!this.canvas) return;
      const sharp = Math.min(2, window.devicePixelRatio || 1);
      [this.canvas.width, this.canvas.height] = [
        this.canvas.clientWidth * sharp,
        this.canvas.clientHeight * sharp,
      ];
      const side = Math.min(this.canvas.width, this.canvas.height);
      this.render(moving ? Math.min(side, 170) : Math.min(side, 420));
      this.words.textContent = this.say();
      if (moving) this.later = setTimeout(() => this.draw(), 150);
    });
  }
  say() {
    const degrees = angle => Math.round((angle * 180) / Math.PI);
    const [structure] = this.choices;
    return `${structure.select.selectedOptions[0].textContent} \u00b7 turned by ${((degrees(this.turn) % 360) + 360) % 360}\u00b0, tilted by ${degrees(this.tilt)}\u00b0`;
  }
  // Directions on the screen, in millimeters along the array axes; the last axis points up.
  camera() {
    const [ct, st, cp, sp] = [
      Math.cos(this.turn),
      Math.sin(this.turn),
      Math.cos(this.tilt),
      Math.sin(this.tilt),
    ];
    return { right: [-st, ct, 0], up: [-sp * ct, -sp * st, cp], toward: [cp * ct, cp * st, sp] };
  }
  render(side) {
    const { shape, spacing } = this.content.grid,
      { right, up, toward } = this.camera();
    const extent =
      (Math.hypot(...shape.map((size, axis) => size * spacing[axis])) * 0.8) / this.zoom;
    const picture = new ImageData(side, side),
      pixels = new Uint32Array(picture.data.buffer);
    const ray = toward.map((part, axis) => -part / spacing[axis]);
    const speed = Math.hypot(...ray),
      march = ray.map(part => (part / speed) * 0.8); // 0.8 voxels
    for (let y = 0, n = 0; y < side; y++)
      for (let x = 0; x < side; x++, n++) {
        const s = (x / side - 0.5) * extent,
          t = (0.5 - y / side) * extent;
        const start = [0, 1, 2].map(
          axis => (shape[axis] - 1) / 2 + (right[axis] * s + up[axis] * t) / spacing[axis],
        );
        pixels[n] = this.shade(start, march);
      }
    const pen = this.canvas.getContext("2d"),
      { width, height } = this.canvas,
      size = Math.min(width, height);
    [this.small.width, this.small.height] = [side, side];
    this.small.getContext("2d").putImageData(picture, 0, 0);
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, width, height);
    pen.imageSmoothingQuality = "high";
    pen.drawImage(this.small, (width - size) / 2, (height - size) / 2, size, size);
    this.axisLetters(pen, size / extent, right, up);
  }
  // The color that a ray meets.
  shade(start, march) {
    const { shape } = this.content.grid;
    let near = -Infinity,
      far = Infinity,
      cutFace = false;
    for (let axis = 0; axis < 3; axis++) {
      let low = 1,
        high = shape[axis] - 2;
      const cut = this.cutAxis === String(axis);
      // The half on the reader's side goes.
      if (cut && march[axis] < 0) high = low + (high - low) * this.cut;
      else if (cut) low = low + (high - low) * this.cut;
      if (Math.abs(march[axis]) < 1e-9) {
        if (start[axis] < low || start[axis] > high) return this.colors.grey[0];
        continue;
      }
      const a = (low - start[axis]) / march[axis],
        b = (high - start[axis]) / march[axis];
      if (Math.min(a, b) > near) {
        near = Math.min(a, b);
        cutFace = cut;
      }
      far = Math.min(far, Math.max(a, b));
    }
    if (near >= far) return this.colors.grey[0];
    const hit = this.hit(this.surface, start, march, near, far);
    const found =
      hit === null
        ? this.colors.grey[0]
        : this.light(this.surface, start, march, hit, cutFace && hit === near);
    // A structure alone is hard to place: the whole anatomy stays visible as glass.
    if (!this.only) return found;
    const glass = this.hit(this.whole, start, march, near, far);
    if (glass === null) return found;
    const edge = 1 - this.facing(this.whole, start, march, glass);
    return mix(found, 0xffd8d0c8, (hit === null ? 0.16 : 0.05) + 0.4 * edge ** 3);
  }
  hit(inside, start, march, near, far) {
    const {
        shape: [, height, width],
      } = this.content.grid,
      [di, dj, dk] = march;
    for (let t = near; t < far; t++) {
      const i = Math.round(start[0] + t * di),
        j = Math.round(start[1] + t * dj),
        k = Math.round(start[2] + t * dk);
      if (inside[(i * height + j) * width + k] > 127) {
        if (t === near) return t;
        let [outer, inner] = [t - 1, t];
        for (let n = 0; n < 5; n++) {
          const middle = (outer + inner) / 2;
          if (this.at(inside, start, march, middle) > 127) inner = middle;
          else outer = middle;
        }
        return inner;
      }
    }
    return null;
  }
  along(start, march, t) {
    return start.map((value, axis) => value + t * march[axis]);
  }
  at(volume, start, march, t) {
    return sample(volume, this.content.grid.shape, ...this.along(start, march, t));
  }
  // Cosine between the ray and the normal of the surface.
  facing(inside, start, march, t) {
    const { shape, spacing } = this.content.grid,
      place = this.along(start, march, t);
    const normal = [0, 1, 2].map(axis => {
      const [before, after] = [[...place], [...place]];
      before[axis] -= 1;
      after[axis] += 1;
      return (sample(inside, shape, ...after) - sample(inside, shape, ...before)) / spacing[axis];
    });
    const ray = march.map((part, axis) => part * spacing[axis]);
    const cosine =
      normal.reduce((sum, part, axis) => sum + part * ray[axis], 0) /
      (Math.hypot(...normal) * Math.hypot(...ray) + 1e-9);
    return clamp(cosine, 0, 1);
  }
  light(inside, start, march, t, face) {
    const { shape } = this.content.grid,
      place = this.along(start, march, t);
    if (face) return this.colors.grey[Math.round(sample(this.image.data, shape, ...place))];
    let color = this.colors.grey[205];
    if (this.coloring !== "none") {
      const { data, shape: coarse } = this.colored[this.coloring];
      const where = place.map((value, axis) => (value * (coarse[axis] - 1)) / (shape[axis] - 1));
      const table = this.colors[this.coloring === "length" ? "length" : "volume"];
      color = table[Math.round(sample(data, coarse, ...where))];
    }
    const facing = this.facing(inside, start, march, t);
    return mix(
      mix(this.colors.grey[0], color, 0.25 + 0.75 * facing),
      this.colors.grey[255],
      0.25 * facing ** 24,
    );
  }
  axisLetters(pen, pixelsPerMm, right, up) {
    const { shape, spacing, letters } = this.content.grid,
      { width, height } = this.canvas,
      { toward } = this.camera();
    const size = 13 * Math.min(2, window.devicePixelRatio || 1);
    [pen.font, pen.textAlign, pen.textBaseline, pen.fillStyle] = [
      `600 ${size}px system-ui, sans-serif`,
      "center",
      "middle",
      "#e69f00",
    ];
    letters.forEach((ends, axis) =>
      [-1, 1].forEach((sign, end) => {
        const length = sign * shape[axis] * spacing[axis] * 0.58 * pixelsPerMm;
        pen.globalAlpha = sign * toward[axis] < 0 ? 0.45 : 1; // behind the anatomy
        pen.fillText(ends[end], width / 2 + right[axis] * length, height / 2 - up[axis] * length);
      }),
    );
    pen.globalAlpha = 1;
  }
}
show(AnatomyView);

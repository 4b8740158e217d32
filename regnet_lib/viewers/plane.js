// One slice of the volume on a canvas; the first remaining axis runs right, the second one up.
class Plane {
  constructor(view, axis, name, passive) {
    [this.view, this.axis, this.set] = [view, axis, name];
    [this.across, this.up] = [0, 1, 2].filter(other => other !== axis);
    const { shape, planes, spacing } = view.content.grid;
    [this.columns, this.rows] = [shape[this.across], shape[this.up]];
    this.name = `${name ? name + ", " : ""}${planes[axis]}`;
    this.canvas = passive
      ? element("canvas", { role: "img", "aria-label": `${this.name} plane` })
      : element("canvas", {
          tabindex: 0,
          role: "application",
          "aria-roledescription": "slice",
          "aria-label": `${this.name} plane. Arrow keys move the crosshair, page keys the slice.`,
          onpointerdown: event => this.point(event, true),
          onpointermove: event => this.point(event),
          onkeydown: event => this.key(event),
        });
    if (!passive)
      this.canvas.addEventListener("wheel", event => this.wheel(event), { passive: false });
    this.aspect = (this.columns * spacing[this.across]) / (this.rows * spacing[this.up]);
    this.canvas.style.aspectRatio = this.aspect;
    this.small = element("canvas", { width: this.columns, height: this.rows });
    this.caption = element("figcaption");
    this.figure = element("figure", {}, this.canvas, this.caption);
  }
  point(event, pressed = false) {
    if (pressed) {
      this.canvas.focus({ preventScroll: true });
      this.canvas.setPointerCapture(event.pointerId);
    } else if (!event.buttons) return;
    const box = this.canvas.getBoundingClientRect(),
      place = [...this.view.position];
    place[this.across] = Math.floor(((event.clientX - box.left) / box.width) * this.columns);
    place[this.up] = Math.floor(((box.bottom - event.clientY) / box.height) * this.rows);
    this.view.moveTo(place);
  }
  wheel(event) {
    // Only a plane that was clicked takes the wheel, so that a page scrolls on over the viewer.
    if (document.activeElement !== this.canvas || event.ctrlKey) return;
    if (this.step(this.axis, event.deltaY < 0 ? 1 : -1)) event.preventDefault();
  }
  key(event) {
    const far = event.shiftKey ? 5 : 1;
    const steps = {
      ArrowLeft: [this.across, -far],
      ArrowRight: [this.across, far],
      ArrowUp: [this.up, far],
      ArrowDown: [this.up, -far],
      PageUp: [this.axis, far],
      PageDown: [this.axis, -far],
    };
    if (steps[event.key]) this.step(...steps[event.key]);
    else if (event.key === "Home") this.view.moveTo(this.view.middle());
    else if (/^[1-9]$/.test(event.key) && this.view.choose(event.key - 1)) {
      /* done */
    } else return;
    event.preventDefault();
    event.stopPropagation(); // the book's theme turns pages with the arrow keys
  }
  step(axis, by) {
    const place = [...this.view.position];
    place[axis] += by;
    return this.view.moveTo(place);
  }

  get position() {
    return this.view.positionOf(this);
  }

  // Colors of all voxels: color(index, x, y) is a 32-bit number of a color table.
  fill(color, smooth = true) {
    const { shape } = this.view.content.grid,
      stride = [shape[1] * shape[2], shape[2], 1];
    const start = this.position[this.axis] * stride[this.axis];
    const picture = new ImageData(this.columns, this.rows),
      pixels = new Uint32Array(picture.data.buffer);
    for (let y = 0, n = 0; y < this.rows; y++) {
      const row = start + (this.rows - 1 - y) * stride[this.up];
      for (let x = 0; x < this.columns; x++, n++)
        pixels[n] = color(row + x * stride[this.across], x, this.rows - 1 - y);
    }
    const pen = this.fit();
    this.small.getContext("2d").putImageData(picture, 0, 0);
    pen.imageSmoothingEnabled = smooth;
    pen.imageSmoothingQuality = "high";
    pen.drawImage(this.small, 0, 0, this.canvas.width, this.canvas.height);
    return pen;
  }
  // As many canvas pixels as the screen shows.
  fit() {
    const sharp = Math.min(2, window.devicePixelRatio || 1),
      pen = this.canvas.getContext("2d");
    const width = Math.max(64, Math.round(this.canvas.clientWidth * sharp));
    const height = Math.max(64, Math.round(width / this.aspect));
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
    [this.scaleX, this.scaleY] = [width / this.columns, height / this.rows];
    this.line = Math.max(1, width / 340);
    return pen;
  }
  // Where the position (x, y) of this plane, in voxels, lies on the canvas.
  toX(x) {
    return (x + 0.5) * this.scaleX;
  }
  toY(y) {
    return this.canvas.height - (y + 0.5) * this.scaleY;
  }
  // The position in the volume of (x, y) on this plane.
  voxel(x, y) {
    const place = [...this.position];
    [place[this.across], place[this.up]] = [x, y];
    return place;
  }

  contours(pen, labels, keep, dashed) {
    const paths = new Map();
    const at = (x, y) => keep(labels.data[this.view.index(this.voxel(x, y))]);
    const edge = (label, x0, y0, x1, y1) => {
      if (!paths.has(label)) paths.set(label, new Path2D());
      paths.get(label).moveTo(this.toX(x0), this.toY(y0));
      paths.get(label).lineTo(this.toX(x1), this.toY(y1));
    };
    for (let y = 0; y < this.rows - 1; y++)
      for (let x = 0; x < this.columns - 1; x++) {
        const here = at(x, y),
          right = at(x + 1, y),
          above = at(x, y + 1);
        if (here !== right) edge(Math.max(here, right), x + 0.5, y - 0.5, x + 0.5, y + 0.5);
        if (here !== above) edge(Math.max(here, above), x - 0.5, y + 0.5, x + 0.5, y + 0.5);
      }
    pen.lineWidth = 1.5 * this.line;
    pen.setLineDash(dashed ? [3 * this.line, 3 * this.line] : []);
    for (const [label, path] of paths) {
      pen.strokeStyle = OKABE_ITO[(label - 1) % OKABE_ITO.length];
      pen.stroke(path);
    }
    pen.setLineDash([]);
  }
  // Lines of a grid that was moved by `moved(voxel) -> voxel`, seen in this plane.
  grid(pen, every, moved, color) {
    pen.beginPath();
    const trace = (x, y, first) => {
      const place = moved(this.voxel(x, y));
      pen[first ? "moveTo" : "lineTo"](this.toX(place[this.across]), this.toY(place[this.up]));
    };
    for (let y = every >> 1; y < this.rows; y += every)
      for (let x = 0; x < this.columns; x++) trace(x, y, x === 0);
    for (let x = every >> 1; x < this.columns; x += every)
      for (let y = 0; y < this.rows; y++) trace(x, y, y === 0);
    [pen.strokeStyle, pen.lineWidth] = [color, this.line];
    pen.stroke();
  }
  arrow(pen, x0, y0, x1, y1) {
    [x0, x1, y0, y1] = [this.toX(x0), this.toX(x1), this.toY(y0), this.toY(y1)];
    const length = Math.hypot(x1 - x0, y1 - y0),
      angle = Math.atan2(y1 - y0, x1 - x0);
    if (length < 1.5 * this.line) return;
    const head = Math.min(5 * this.line, length / 2);
    pen.moveTo(x0, y0);
    pen.lineTo(x1, y1);
    for (const side of [-0.5, 0.5]) {
      pen.moveTo(x1, y1);
      pen.lineTo(x1 - head * Math.cos(angle + side), y1 - head * Math.sin(angle + side));
    }
  }
  crosshair(pen, place = this.position, color = "#e69f00") {
    const x = this.toX(place[this.across]),
      y = this.toY(place[this.up]),
      gap = 5 * this.line;
    const { width, height } = this.canvas;
    pen.beginPath();
    for (const [x0, y0, x1, y1] of [
      [0, y, x - gap, y],
      [x + gap, y, width, y],
      [x, 0, x, y - gap],
      [x, y + gap, x, height],
    ]) {
      pen.moveTo(x0, y0);
      pen.lineTo(x1, y1);
    }
    [pen.strokeStyle, pen.lineWidth] = [color, this.line];
    pen.stroke();
  }
  letters(pen) {
    const { letters } = this.view.content.grid,
      { width, height } = this.canvas,
      size = 12 * this.line;
    pen.font = `600 ${size}px system-ui, sans-serif`;
    [pen.textAlign, pen.textBaseline, pen.lineWidth] = ["center", "middle", 3 * this.line];
    [pen.fillStyle, pen.strokeStyle] = ["#fff", "#000"];
    const [left, right] = letters[this.across],
      [below, above] = letters[this.up];
    for (const [text, x, y] of [
      [left, size * 0.8, height / 2],
      [right, width - size * 0.8, height / 2],
      [below, width / 2, height - size * 0.8],
      [above, width / 2, size * 0.8],
    ]) {
      pen.strokeText(text, x, y);
      pen.fillText(text, x, y);
    }
  }
  finish(pen) {
    this.letters(pen);
    this.crosshair(pen);
    this.caption.textContent = `${this.name} ${this.position[this.axis]}`;
  }
}

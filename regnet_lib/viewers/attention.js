// The fixed image asks, the moving image answers with a map of weights (attention.py).
class AttentionView extends View {
  async load() {
    this.volumes = await unpackAll(this.content.images.volumes);
    if (!this.content.live) this.maps = (await unpack(this.content.maps)).data;
    this.answer = { map: new Uint8Array(1), keys: [1, 1, 1], peak: 0, places: 0 };
  }
  build() {
    this.addChoice(
      "Moving planes",
      { peak: "at the strongest answer", same: "at the same voxel" },
      "peak",
      value => {
        this.follow = value;
      },
    );
    this.addSlider("Strength", [0, 1, 0.01], 0.8, value => {
      this.strength = value;
    });
    this.stage.append(element("p", { class: "rg-row" }, "Fixed image: pick a voxel"));
    this.addPlanes("fixed");
    this.stage.append(element("p", { class: "rg-row" }, "Moving image: where it looks"));
    this.addPlanes("moving", true);
    this.addScale("length", "weight 0", "largest weight of this voxel");
    this.moved();
  }
  // The cell of a grid that holds a voxel, and the voxel in the middle of a cell.
  cell(place, grid) {
    return place.map((value, axis) =>
      Math.floor(((value + 0.5) * grid[axis]) / this.content.grid.shape[axis]),
    );
  }
  center(cell, grid) {
    return cell.map((value, axis) =>
      Math.round(((value + 0.5) * this.content.grid.shape[axis]) / grid[axis] - 0.5),
    );
  }
  moved() {
    const { live, queries, keys, peaks, places } = this.content;
    if (live) return this.ask();
    const [a, b, c] = this.cell(this.position, queries),
      n = (a * queries[1] + b) * queries[2] + c;
    const size = keys[0] * keys[1] * keys[2];
    this.take({
      map: this.maps.subarray(n * size, (n + 1) * size),
      keys,
      peak: peaks[n],
      places: places[n],
    });
  }
  take(answer) {
    const [, height, width] = answer.keys,
      best = answer.map.indexOf(Math.max(...answer.map));
    const cell = [
      Math.floor(best / (height * width)),
      Math.floor(best / width) % height,
      best % width,
    ];
    this.answer = { ...answer, best: this.center(cell, answer.keys) };
  }
  // Live: the voxel goes to Python through the text field beside the viewer, the answer comes back
  // as a call of receive().
  ask() {
    const field = this.root.closest(".rg-live")?.querySelector(".rg-voxel input");
    if (!field) return;
    field.value = this.position.join(",");
    for (const kind of ["input", "change"]) field.dispatchEvent(new Event(kind, { bubbles: true }));
  }
  async receive({ map, ...rest }) {
    this.take({ map: (await unpack(map)).data, ...rest });
    this.draw();
  }
  positionOf(plane) {
    return (plane.set === "moving" && this.follow === "peak" && this.answer.best) || this.position;
  }
  paint(plane) {
    const { data } = this.volumes[plane.set],
      { grey, length } = this.colors,
      { map, keys } = this.answer;
    if (plane.set === "fixed") {
      const pen = plane.fill(n => grey[data[n]]);
      this.box(pen, plane, this.content.queries || keys);
      return plane.finish(pen);
    }
    const slice = plane.position;
    const pen = plane.fill((n, x, y) => {
      const place = [...slice];
      [place[plane.across], place[plane.up]] = [x, y];
      const [a, b, c] = this.cell(place, keys),
        weight = map[(a * keys[1] + b) * keys[2] + c];
      return mix(grey[data[n]], length[weight], this.strength * Math.sqrt(weight / 255));
    });
    plane.finish(pen);
  }
  // The cell that asks.
  box(pen, plane, grid) {
    const cell = this.cell(this.position, grid),
      { shape } = this.content.grid;
    const low = axis => (cell[axis] * shape[axis]) / grid[axis] - 0.5,
      high = axis => low(axis) + shape[axis] / grid[axis];
    const [x0, x1, y0, y1] = [
      plane.toX(low(plane.across)),
      plane.toX(high(plane.across)),
      plane.toY(low(plane.up)),
      plane.toY(high(plane.up)),
    ];
    [pen.strokeStyle, pen.lineWidth] = ["#56b4e9", 2 * plane.line];
    pen.strokeRect(x0, y1, x1 - x0, y0 - y1);
  }
  say() {
    const { peak, places, best } = this.answer;
    if (!best) return `${this.place()} \u00b7 waiting for an answer`;
    return `fixed ${this.place()} looks most at moving (${best.join(", ")}), weight ${peak} \u00b7 as spread as ${places} equal places`;
  }
}
show(AttentionView);

// A film from the moving image to the warped one, level by level (pyramid.py).
// The script warps the slices itself, with the field between two levels: (1 - t) u_l + t u_(l+1).
class PyramidView extends View {
  async load() {
    this.volumes = await unpackAll(this.content.images.volumes);
    this.fields = await Promise.all(
      this.content.fields.map(one => Field.load(one, this.content.grid.shape)),
    );
  }
  build() {
    this.addChoice(
      "Show",
      {
        warped: "warped moving",
        difference: "fixed - warped",
        board: "checkerboard with fixed",
        fixed: "fixed",
      },
      "warped",
      value => {
        this.picture = value;
      },
    );
    this.slider = this.addSlider(
      "Level",
      [0, this.fields.length, 0.02],
      this.fields.length,
      value => {
        this.level = value;
      },
    );
    this.playing = false;
    this.button = this.addButton("Play", () => this.play(!this.playing));
    this.addCheck("grid", true, value => {
      this.withGrid = value;
    });
    this.addPlanes();
  }
  play(on) {
    this.playing = on;
    this.button.textContent = on ? "Pause" : "Play";
    if (!on) return;
    if (this.level >= this.fields.length) this.level = 0;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    let before = performance.now();
    const next = now => {
      if (!this.playing || !this.root.isConnected) return;
      // 1.4 seconds per level; readers who asked for less motion get whole levels only.
      // The first frame may carry a time from before the click.
      const step = Math.max(now - before, 0) / 1400;
      if (!calm || step >= 1) {
        this.level = Math.min(
          this.fields.length,
          calm ? Math.floor(this.level) + 1 : this.level + step,
        );
        this.slider.value = this.level;
        before = now;
        this.draw();
      }
      if (this.level >= this.fields.length) this.play(false);
      else requestAnimationFrame(next);
    };
    requestAnimationFrame(next);
  }
  vector(place) {
    const lower = Math.min(Math.floor(this.level), this.fields.length - 1),
      t = this.level - lower;
    const last = t ? this.fields[lower].vector(place) : [0, 0, 0];
    const first = lower && t < 1 ? this.fields[lower - 1].vector(place) : [0, 0, 0];
    return first.map((part, axis) => (1 - t) * part + t * last[axis]);
  }
  paint(plane) {
    const { moving, fixed } = this.volumes,
      { grey, difference } = this.colors,
      { shape } = this.content.grid;
    const looks = place => {
      const u = this.vector(place);
      return place.map((value, axis) => value + u[axis]);
    };
    const warped = (x, y) => sample(moving.data, shape, ...looks(plane.voxel(x, y)));
    const shades = {
      warped: (n, x, y) => grey[Math.round(warped(x, y))],
      difference: (n, x, y) =>
        difference[clamp(Math.round(127.5 + 1.5 * (fixed.data[n] - warped(x, y))), 0, 255)],
      board: (n, x, y) =>
        grey[((x >> 3) + (y >> 3)) & 1 ? Math.round(warped(x, y)) : fixed.data[n]],
      fixed: n => grey[fixed.data[n]],
    };
    const pen = plane.fill(shades[this.picture]);
    if (this.withGrid) plane.grid(pen, 6, looks, "#ff9d5c");
    plane.finish(pen);
  }
  say() {
    const { shapes, errors, longest } = this.content,
      level = Math.round(this.level);
    const name = level
      ? `level ${level} of ${shapes.length}, grid ${shapes[level - 1].join("\u00d7")}, longest vector ${longest[level - 1]} voxels`
      : "start, no displacement";
    return `${name} \u00b7 mean |fixed \u2212 warped| ${errors[level]}`;
  }
}
show(PyramidView);

// A bent grid or arrows over the image they lie in (deformation.py).
//   pull-back: x + u(x). Starts on the fixed grid, ends in the moving image.
//   forward:   y + v(y), v the inverse of u. Starts on the moving grid, ends in the fixed image.
class DeformationView extends View {
  async load() {
    this.volumes = await unpackAll(this.content.images.volumes);
    const {
      pull_back: pull,
      forward,
      grid: { shape },
    } = this.content;
    this.fields = {
      pull: await Field.load(pull, shape),
      forward: await Field.load(forward, shape),
    };
  }
  build() {
    this.addChoice(
      "Field",
      {
        pull: "pull-back, fixed to moving",
        forward: "forward, moving to fixed",
      },
      "pull",
      value => {
        this.direction = value;
      },
    );
    this.addChoice("drawn as", { grid: "grid", arrows: "arrows" }, "grid", value => {
      this.shape = value;
    });
    this.addSlider("Amount", [0, 1, 0.01], 1, value => {
      this.amount = value;
    });
    this.addSlider("Spacing", [2, 12, 1], 4, value => {
      this.every = value;
    });
    this.addCheck("image", true, value => {
      this.withImage = value;
    });
    this.addPlanes();
  }
  // A grid lies where the vectors end, arrows stand where they start.
  under() {
    return (this.direction === "pull") === (this.shape === "grid") ? "moving" : "fixed";
  }
  paint(plane) {
    const { data } = this.volumes[this.under()],
      { grey } = this.colors,
      amount = this.amount;
    const field = this.fields[this.direction],
      color = this.direction === "pull" ? "#ff9d5c" : "#5cc8ff";
    const pen = plane.fill(this.withImage ? n => grey[data[n]] : () => grey[0]);
    const moved = place => field.vector(place).map((part, axis) => place[axis] + amount * part);
    if (this.shape === "grid") plane.grid(pen, this.every, moved, color);
    else {
      pen.beginPath();
      for (let y = this.every >> 1; y < plane.rows; y += this.every)
        for (let x = this.every >> 1; x < plane.columns; x += this.every) {
          const end = moved(plane.voxel(x, y));
          plane.arrow(pen, x, y, end[plane.across], end[plane.up]);
        }
      [pen.strokeStyle, pen.lineWidth] = [color, 1.3 * plane.line];
      pen.stroke();
    }
    plane.finish(pen);
  }
  say() {
    const vector = this.fields[this.direction]
      .vector(this.position)
      .map(part => part * this.amount);
    const end = this.position.map((value, axis) => (value + vector[axis]).toFixed(1));
    const [from, to] = this.direction === "pull" ? ["fixed", "moving"] : ["moving", "fixed"];
    return (
      `${from} ${this.place()} \u2192 ${to} (${end.join(", ")}) \u00b7 ${Math.hypot(...vector).toFixed(1)} voxels` +
      ` \u00b7 picture: ${this.under()} image` +
      (this.direction === "forward"
        ? ` \u00b7 the inverse misses by ${this.content.residual} voxels on average`
        : "")
    );
  }
}
show(DeformationView);

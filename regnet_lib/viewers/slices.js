// Fixed, moving, warped: one image, or two as checkerboard, blend or difference (slices.py).
class SliceView extends View {
  async load() {
    this.volumes = await unpackAll(this.content.images.volumes);
    this.labels = this.content.labels ? await unpackAll(this.content.labels.volumes) : {};
  }
  build() {
    const names = Object.keys(this.volumes),
      options = {},
      modes = { one: "first alone" };
    for (const name of names) options[name] = name;
    const last = names.includes("warped") ? "warped" : "moving";
    this.addChoice("Show", options, "fixed", value => {
      this.first = value;
    });
    this.addChoice("and", options, last, value => {
      this.second = value;
    });
    Object.assign(modes, { board: "checkerboard", blend: "blend", difference: "difference" });
    this.addChoice("as", modes, "board", value => {
      this.mode = value;
    });
    this.addSlider("Mix", [0, 1, 0.01], 0.5, value => {
      this.weight = value;
    });
    if (Object.keys(this.labels).length)
      this.addChoice(
        "Contours",
        { none: "none", one: "of the first", both: "of both (second dashed)" },
        "none",
        value => {
          this.outlines = value;
        },
      );
    this.addPlanes();
  }
  paint(plane) {
    const A = this.volumes[this.first].data,
      B = this.volumes[this.second].data;
    const { grey, difference } = this.colors,
      weight = this.weight;
    // Mix sets the size of the tiles, the weight of the second image, or the contrast.
    const tile = Math.max(3, Math.round(this.content.grid.shape[0] / (4 + 12 * weight)));
    const contrast = 0.5 + 2 * weight;
    const shades = {
      one: n => grey[A[n]],
      board: (n, x, y) => grey[((Math.floor(x / tile) + Math.floor(y / tile)) & 1 ? B : A)[n]],
      blend: n => grey[Math.round(A[n] * (1 - weight) + B[n] * weight)],
      difference: n => difference[clamp(Math.round(127.5 + (A[n] - B[n]) * contrast), 0, 255)],
    };
    const pen = plane.fill(shades[this.mode]),
      all = label => label;
    if (this.outlines === "both" && this.labels[this.second])
      plane.contours(pen, this.labels[this.second], all, true);
    if (this.outlines && this.outlines !== "none" && this.labels[this.first])
      plane.contours(pen, this.labels[this.first], all, false);
    plane.finish(pen);
  }
  say() {
    const n = this.index(this.position);
    const values = Object.entries(this.volumes).map(
      ([name, volume]) => `${name} ${this.intensity(volume.data[n])}`,
    );
    const ids = this.content.labels && this.content.labels.ids;
    const labels = Object.entries(this.labels).map(
      ([name, volume]) => `${name} ${ids[volume.data[n]]}`,
    );
    return [
      this.place(),
      "intensity " + values.join(", "),
      labels.length ? "label " + labels.join(", ") : "",
    ]
      .filter(Boolean)
      .join(" \u00b7 ");
  }
}
show(SliceView);

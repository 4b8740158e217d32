// The Jacobian determinant over the fixed image, folded voxels in magenta, a histogram (jacobian.py).
class JacobianView extends View {
  async load() {
    this.volumes = await unpackAll(this.content.images.volumes);
    this.determinant = (await unpack(this.content.determinant)).data;
  }
  build() {
    const { span, percent, folded, worst } = this.content;
    this.addChoice(
      "Show",
      { both: "map over the image", map: "map", folds: "folded voxels only" },
      "both",
      value => {
        this.layer = value;
      },
    );
    this.addSlider("Strength", [0, 1, 0.01], 0.75, value => {
      this.strength = value;
    });
    if (worst.length) {
      let turn = -1;
      this.addButton("Next fold", () => {
        turn = (turn + 1) % worst.length;
        this.moveTo(worst[turn]);
      });
    }
    this.addPlanes();
    const sign = element("span", { class: "rg-fold", role: "presentation" });
    const legend = this.addScale(
      "volume",
      `covers less of the moving image ${(1 - span).toFixed(2)}`,
      `${(1 + span).toFixed(2)} covers more`,
    );
    legend.append(
      sign,
      `folded: ${folded} voxels. In percent by definition: central ${percent.central}, forward ${percent.forward}, digital ${percent.digital}`,
    );
    this.chart = element("canvas", {
      class: "rg-chart",
      role: "img",
      "aria-label": this.summary(),
    });
    this.stage.append(
      this.chart,
      element(
        "p",
        { class: "rg-hint" },
        "Number of voxels (logarithmic) over the Jacobian determinant.",
      ),
    );
  }
  summary() {
    const { edges, counts } = this.content,
      most = counts.indexOf(Math.max(...counts));
    return `Histogram of the determinant from ${edges[0]} to ${edges.at(-1)}, most voxels near ${((edges[most] + edges[most + 1]) / 2).toFixed(2)}`;
  }
  paint(plane) {
    const { data } = this.volumes.fixed,
      { grey, volume } = this.colors,
      value = this.determinant;
    const colors = {
      both: n => mix(grey[data[n]], volume[value[n]], this.strength),
      map: n => volume[value[n]],
      folds: n => grey[data[n]],
    };
    const color = colors[this.layer];
    const pen = plane.fill(n => (value[n] ? color(n) : FOLDED), false);
    plane.finish(pen);
  }
  draw() {
    super.draw();
    if (this.chart) this.histogram();
  }
  // Counts on a logarithmic axis, because folds are rare.
  histogram() {
    const { counts, edges, span } = this.content,
      sharp = Math.min(2, window.devicePixelRatio || 1);
    const { chart } = this,
      pen = chart.getContext("2d"),
      ink = getComputedStyle(this.root).color;
    chart.width = Math.max(200, chart.clientWidth * sharp);
    chart.height = 120 * sharp;
    const low = Math.min(edges[0], 0),
      high = edges.at(-1),
      bottom = chart.height - 20 * sharp;
    const x = number => ((number - low) / (high - low)) * (chart.width - 20 * sharp) + 10 * sharp;
    const tallest = Math.log10(1 + Math.max(...counts));
    counts.forEach((count, n) => {
      const middle = (edges[n] + edges[n + 1]) / 2,
        level = clamp(Math.round(((middle - 1 + span) / (2 * span)) * 255), 1, 255);
      const color = middle <= 0 ? FOLDED : this.colors.volume[level];
      pen.fillStyle = `rgb(${color & 255},${(color >> 8) & 255},${(color >> 16) & 255})`;
      const height = (Math.log10(1 + count) / tallest) * (bottom - 6 * sharp);
      const box = [x(edges[n]), bottom - height, x(edges[n + 1]) - x(edges[n]), height];
      pen.fillRect(...box);
      [pen.strokeStyle, pen.lineWidth] = [ink, 0.5 * sharp];
      if (count) pen.strokeRect(...box);
    });
    [pen.fillStyle, pen.strokeStyle, pen.font] = [
      ink,
      ink,
      `${12 * sharp}px system-ui, sans-serif`,
    ];
    pen.textAlign = "center";
    for (const tick of [0, 0.5, 1, 1.5, 2, 3, 4, 6, 8].filter(
      tick => tick >= low && tick <= high,
    )) {
      pen.fillRect(x(tick) - 0.5 * sharp, bottom, sharp, 4 * sharp);
      if ((tick !== 0.5 && tick !== 1.5) || high - low < 4)
        pen.fillText(String(tick), x(tick), bottom + 16 * sharp);
    }
  }
  say() {
    const level = this.determinant[this.index(this.position)],
      { span } = this.content;
    const value = 1 - span + (level / 255) * 2 * span;
    const words =
      level === 0
        ? "folded (0 or less)"
        : level === 1
          ? `at most ${value.toFixed(2)}`
          : level === 255
            ? `at least ${value.toFixed(2)}`
            : value.toFixed(2);
    return `${this.place()} \u00b7 determinant ${words} \u00b7 fixed ${this.intensity(this.volumes.fixed.data[this.index(this.position)])}`;
  }
}
show(JacobianView);

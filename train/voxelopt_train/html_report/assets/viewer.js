"use strict";
// Three linked slices: NiiVue shows the images and follows the mouse, `Lines` draws above it.

const PLANES = [ // as NiiVue numbers them: the axis across the slice, the axes of the screen
  { name: "axial", normal: 2, across: 0, up: 1 },
  { name: "coronal", normal: 1, across: 0, up: 2 },
  { name: "sagittal", normal: 0, across: 1, up: 2 },
];
const GAP = 8; // px between slices
const FOLD_COLOR = "#ffee00";

class Viewer {
  constructor(colors, labelColors, { first, last, fold }, onMove) {
    Object.assign(this, { onMove, lines: new Lines(this, colors, labelColors) });
    this.settings = {
      pair: ["fixed", "warped"], mode: "fade", share: 0.5, squaresMm: 25, map: "", opacity: 0.6,
      outlines: true, grid: false, radiological: true, zoom: 1,
    };
    this.canvas = document.getElementById("slices");
    this.nv = new niivue.Niivue({
      logLevel: "error", isRadiologicalConvention: true, sagittalNoseLeft: true, crosshairWidth: 0,
      isOrientationTextVisible: false, dragAndDropEnabled: false, loadingText: "", isColorbar: false,
      dragMode: niivue.DRAG_MODE.none, viewModeHotKey: "", clipPlaneHotKey: "",
      cycleClipPlaneHotKey: "", multiplanarShowRender: niivue.SHOW_RENDER.NEVER,
    });
    this.addColors("opaque", [[0, "#000000", 255], [255, "#ffffff", 255]]);
    const spread = (hex, low, high, alpha) => hex.map((color, n) => {
      const share = n / (hex.length - 1);
      return [Math.round(low + share * (high - low)), color, Math.round(255 * alpha(share))];
    });
    const { difference, entropy, jacobian } = colors, nothing = [0, "#000000", 0];
    this.addColors("difference", spread(difference, 0, 255, () => 1));
    this.addColors("entropy", [nothing, ...spread(entropy, first, last, () => 1), [255, entropy.at(-1), 255]]);
    // No change of volume shows nothing, so that the image stays visible there.
    const changed = spread(jacobian, first, last, (share) => Math.min(1, 4 * Math.abs(share - 0.5)));
    this.addColors("jacobian", [nothing, ...changed, [last + 2, jacobian.at(-1), 255], [last + 3, FOLD_COLOR, 255], [fold, FOLD_COLOR, 255]]);
  }

  // A colour map for NiiVue: [byte, colour, opacity] in rising order of bytes.
  addColors(name, stops) {
    const channel = (k) => stops.map(([, color]) => parseInt(color.slice(1 + 2 * k, 3 + 2 * k), 16));
    this.nv.addColormap(name, {
      R: channel(0), G: channel(1), B: channel(2), A: stops.map((s) => s[2]), I: stops.map((s) => s[0]),
    });
  }

  async start() {
    await this.nv.attachToCanvas(this.canvas, false);
    const draw = this.nv.drawScene.bind(this.nv);
    this.nv.drawScene = () => {
      draw();
      this.lines.draw();
    };
    this.nv.onLocationChange = () => this.onMove();
    new ResizeObserver(() => this.layOut()).observe(document.getElementById("stage"));
  }

  // Show one case: `volumes` as the page's JSON has them, `arrays` their bytes by name.
  async show(volumes, arrays) {
    this.volumes = null; // nothing to draw lines on until the images are there
    Object.assign(this, { arrays, shape: volumes.shape });
    this.mixed = new Uint8Array(this.shape[0] * this.shape[1] * this.shape[2]);
    while (this.nv.volumes.length) this.nv.removeVolumeByIndex(0);
    // Of its first volume NiiVue computes gradients at every change, which is slow without a graphics
    // card and which slices do not need: ours stays empty, and the images lie above it.
    for (const name of ["nothing", "images", "map"]) {
      this.nv.addVolume(await this.volume(volumes, name, "opaque"));
    }
    this.volumes = volumes;
    this.lines.reset();
    this.nv.scene.crosshairPos = [0.5, 0.5, 0.5];
    this.layOut();
    this.update();
  }

  volume({ shape, spacing, affine }, name, colormap) {
    const file = niivue.NVImage.createNiftiArray(
      shape, spacing, affine.flat(), 2, new Uint8Array(this.mixed.length));
    return niivue.NVImage.new(file.buffer, `${name}.nii`, colormap, 1, null, 0, 255);
  }

  // Bring what NiiVue shows in line with the settings.
  update() {
    const { pair, mode, share, squaresMm, map, opacity, radiological } = this.settings;
    const [first, second] = pair.map((name) => this.arrays[name] || this.arrays.warped);
    const squares = this.volumes.spacing.map((mm) => Math.max(1, Math.round(squaresMm / mm)));
    blend(this.mixed, first, second, this.shape, mode, share, squares);
    const [, images, overlay] = this.nv.volumes;
    images.img.set(this.mixed);
    images.colormap = mode === "difference" ? "difference" : "opaque";
    if (map) {
      overlay.img.set(this.arrays[map]);
      overlay.colormap = map;
    }
    overlay.opacity = map ? opacity : 0;
    this.nv.opts.isRadiologicalConvention = radiological;
    this.setZoom();
    this.nv.refreshLayers(images, 1);
    this.nv.refreshLayers(overlay, 2);
    this.redraw();
  }

  setZoom() {
    const { zoom } = this.settings;
    const mm = this.nv.frac2mm(this.nv.scene.crosshairPos);
    this.nv.scene.pan2Dxyzmm = [0, 1, 2].map((n) => (1 - zoom) * mm[n]).concat(zoom);
  }

  redraw() {
    this.nv.drawScene();
  }

  // One row of slices at one scale in mm; below each other where the window is narrow.
  layOut() {
    if (!this.volumes) return;
    const stage = document.getElementById("stage"), width = stage.clientWidth;
    const size = this.shape.map((n, axis) => n * this.volumes.spacing[axis]);
    // Of a single slice, two planes are a line.
    const shown = PLANES.filter((plane) => Math.min(this.shape[plane.across], this.shape[plane.up]) > 1);
    const wide = shown.map((plane) => size[plane.across]);
    const high = shown.map((plane) => size[plane.up]);
    const row = width > 720, sum = (values) => values.reduce((a, b) => a + b), gaps = GAP * (shown.length - 1);
    const room = Math.max(300, window.innerHeight * 0.62);
    const scale = row
      ? Math.min((width - gaps) / sum(wide), room / Math.max(...high))
      : Math.min(width / Math.max(...wide), (2 * room) / sum(high));
    const height = row ? scale * Math.max(...high) : scale * sum(high) + gaps;
    stage.style.height = `${Math.round(height)}px`;
    const used = row ? scale * sum(wide) + gaps : scale * Math.max(...wide);
    let left = (width - used) / 2, top = 0;
    const layout = shown.map((plane, n) => {
      const box = [left, row ? (height - scale * high[n]) / 2 : top, scale * wide[n], scale * high[n]];
      if (row) left += box[2] + GAP;
      else top += box[3] + GAP;
      const share = [box[0] / width, box[1] / height, box[2] / width, box[3] / height];
      return { sliceType: PLANES.indexOf(plane), position: share };
    });
    const positions = document.getElementById("positions");
    positions.style.gridTemplateColumns = row ? wide.map((mm) => `${mm * scale}px`).join(" ") : "";
    for (const plane of PLANES) {
      document.getElementById(`slice${plane.normal}`).parentElement.hidden = !shown.includes(plane);
    }
    positions.style.columnGap = `${GAP}px`;
    this.nv.customLayout = layout;
    this.nv.resizeListener();
  }

  get fraction() {
    return [...this.nv.scene.crosshairPos];
  }

  get voxel() {
    return this.fraction.map((f, n) => Math.min(Math.max(Math.floor(f * this.shape[n]), 0), this.shape[n] - 1));
  }

  // World coordinates (RAS mm) of a place in voxels.
  world(voxel) {
    return this.volumes.affine.slice(0, 3).map((r) => r[0] * voxel[0] + r[1] * voxel[1] + r[2] * voxel[2] + r[3]);
  }

  get position() {
    return this.world(this.fraction.map((f, n) => f * this.shape[n] - 0.5));
  }

  moveTo(voxel) {
    this.nv.scene.crosshairPos = voxel.map((v, n) => (v + 0.5) / this.shape[n]);
    this.setZoom();
    this.redraw();
    this.onMove();
  }

  value(name, voxel = this.voxel) {
    const [x, y, z] = voxel, [nx, ny] = this.shape;
    return this.arrays[name] && this.arrays[name][x + nx * (y + ny * z)];
  }

  get field() {
    const layer = this.volumes.layers.displacement;
    return layer && { array: this.arrays.displacement, shape: layer.shape, step: layer.step };
  }
}

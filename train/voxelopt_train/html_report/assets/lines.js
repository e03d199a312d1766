"use strict";
// Lines above the slices, on a canvas of their own and so sharp at any size of the screen: outlines
// of organs, the deformation grid, the crosshair, and which side is which.

const ENDS = [["L", "R"], ["P", "A"], ["I", "S"]]; // towards smaller and larger world coordinates
const GRID_MM = 9;

class Lines {
  constructor(viewer, colors, labelColors) {
    Object.assign(this, { viewer, colors, labelColors });
    this.canvas = document.getElementById("drawing");
  }

  // Forget what was found for the case before.
  reset() {
    this.cache = new Map();
    this.setLongest();
  }

  // Where the colours of the grid end: what all but a few vectors stay below.
  setLongest() {
    this.longest = 1;
    if (!this.viewer.field) return;
    const { array, step } = this.viewer.field, size = array.length / 3, lengths = [];
    for (let i = 0; i < size; i += 7) {
      lengths.push(Math.hypot(...this.viewer.volumes.spacing.map((mm, n) => mm * step * array[i + n * size])));
    }
    lengths.sort((a, b) => a - b);
    this.longest = Math.max(1, lengths[Math.floor(0.998 * (lengths.length - 1))]);
  }

  cached(key, make) {
    if (!this.cache.has(key)) {
      if (this.cache.size > 60) this.cache.clear();
      this.cache.set(key, make());
    }
    return this.cache.get(key);
  }

  draw() {
    const pen = this.canvas.getContext("2d");
    this.canvas.width = this.viewer.canvas.width;
    this.canvas.height = this.viewer.canvas.height;
    if (this.viewer.volumes) for (const tile of this.viewer.nv.screenSlices) this.drawTile(pen, tile);
  }

  drawTile(pen, tile) {
    const plane = PLANES[tile.axCorSag], [left, top, width, height] = tile.leftTopWidthHeight;
    const matrix = this.viewer.nv.volumes[0].frac2mmOrtho; // diagonal: NiiVue's mm along the array axes
    const place = (axis, voxel) =>
      matrix[5 * axis] * ((voxel + 0.5) / this.viewer.shape[axis]) + matrix[12 + axis];
    const x = (voxel) => left + ((place(plane.across, voxel) - tile.leftTopMM[0]) / tile.fovMM[0]) * width;
    const y = (voxel) => top + height - ((place(plane.up, voxel) - tile.leftTopMM[1]) / tile.fovMM[1]) * height;
    const dpr = this.viewer.nv.uiData.dpr, index = this.viewer.voxel[plane.normal];
    pen.save();
    pen.beginPath();
    pen.rect(left, top, width, height);
    pen.clip();
    if (this.viewer.settings.grid && this.viewer.field) this.drawGrid(pen, plane, index, x, y, dpr);
    if (this.viewer.settings.outlines) this.drawOutlines(pen, plane, index, x, y, dpr);
    this.drawCrosshair(pen, [left, top, width, height], x, y, plane, dpr);
    this.drawDirections(pen, [left, top, width, height], plane, tile.fovMM[0] < 0, dpr);
    pen.restore();
  }

  drawGrid(pen, plane, index, x, y, dpr) {
    const pieces = this.cached(`grid ${plane.normal} ${index}`, () =>
      gridLines(this.viewer.field, this.viewer.shape, this.viewer.volumes.spacing, plane.normal, index, GRID_MM));
    const colors = this.colors.displacement, paths = colors.map(() => new Path2D());
    for (const [x0, y0, x1, y1, mm] of pieces) {
      const n = Math.min(Math.floor((mm / this.longest) * colors.length), colors.length - 1);
      paths[n].moveTo(x(x0), y(y0));
      paths[n].lineTo(x(x1), y(y1));
    }
    pen.lineWidth = dpr;
    paths.forEach((path, n) => {
      pen.strokeStyle = colors[n];
      pen.stroke(path);
    });
  }

  drawOutlines(pen, plane, index, x, y, dpr) {
    this.viewer.settings.pair.forEach((image, order) => {
      const name = `${image}_labels`;
      if (!this.viewer.arrays[name]) return;
      const found = this.cached(`${name} ${plane.normal} ${index}`, () =>
        outlines(cut(this.viewer.arrays[name], this.viewer.shape, plane.normal, index)));
      pen.setLineDash(order ? [4 * dpr, 3 * dpr] : []);
      for (const [label, loops] of found) {
        const path = new Path2D();
        for (const loop of loops) {
          path.moveTo(x(loop[0]), y(loop[1]));
          for (let i = 2; i < loop.length; i += 2) path.lineTo(x(loop[i]), y(loop[i + 1]));
          path.closePath();
        }
        pen.lineWidth = 3 * dpr; // a dark edge, to stand out of bright tissue
        pen.strokeStyle = "rgba(0, 0, 0, 0.45)";
        pen.stroke(path);
        pen.lineWidth = 1.5 * dpr;
        pen.strokeStyle = this.labelColor(label);
        pen.stroke(path);
      }
      pen.setLineDash([]);
    });
  }

  labelColor(label) {
    return this.labelColors[(label - 1) % this.labelColors.length];
  }

  drawCrosshair(pen, [left, top, width, height], x, y, plane, dpr) {
    const at = this.viewer.fraction.map((f, n) => f * this.viewer.shape[n] - 0.5), gap = 9 * dpr;
    const across = x(at[plane.across]), up = y(at[plane.up]);
    pen.strokeStyle = "rgba(120, 190, 255, 0.55)";
    pen.lineWidth = dpr;
    pen.beginPath();
    for (const [x0, y0, x1, y1] of [
      [left, up, across - gap, up], [across + gap, up, left + width, up],
      [across, top, across, up - gap], [across, up + gap, across, top + height],
    ]) {
      pen.moveTo(x0, y0);
      pen.lineTo(x1, y1);
    }
    pen.stroke();
  }

  drawDirections(pen, [left, top, width, height], plane, reversed, dpr) {
    const across = reversed ? [...ENDS[plane.across]].reverse() : ENDS[plane.across];
    const margin = 10 * dpr, middle = left + width / 2, half = top + height / 2;
    const write = (text, px, py, align, color) => {
      pen.textAlign = align;
      pen.textBaseline = "middle";
      pen.lineWidth = 3 * dpr;
      pen.strokeStyle = "rgba(0, 0, 0, 0.8)";
      pen.strokeText(text, px, py);
      pen.fillStyle = color;
      pen.fillText(text, px, py);
    };
    pen.font = `600 ${13 * dpr}px system-ui, sans-serif`;
    write(across[0], left + margin, half, "center", "#8fd0ff");
    write(across[1], left + width - margin, half, "center", "#8fd0ff");
    write(ENDS[plane.up][1], middle, top + margin, "center", "#8fd0ff");
    write(ENDS[plane.up][0], middle, top + height - margin, "center", "#8fd0ff");
    pen.font = `${12 * dpr}px system-ui, sans-serif`;
    const mm = direction(this.viewer.position[plane.normal], plane.normal);
    write(`${plane.name}  ${mm}`, left + 6 * dpr, top + margin, "left", "#e8edf2");
  }
}

// A world coordinate as radiologists say it: the side, then how far.
function direction(mm, axis) {
  return `${ENDS[axis][mm < 0 ? 0 : 1]} ${Math.abs(mm).toFixed(1)} mm`;
}

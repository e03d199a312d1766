"use strict";
// Volumes of the page and what is made of them: no element of the page is touched here but the
// script elements that hold the data. Volumes have the first axis fastest.

const ARRAYS = { uint8: Uint8Array, int16: Int16Array, int32: Int32Array };

async function unpack(id, type) {
  const text = atob(document.getElementById(id).textContent);
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new ARRAYS[type](await new Response(stream).arrayBuffer());
}

// Two images as one: "fade" (share of the second in 0 to 1), "checkerboard" (squares in voxels
// along each axis) or "difference" (grey 128 where both are equal).
function blend(out, a, b, shape, mode, share, squares) {
  if (mode === "fade") {
    const weight = Math.round(share * 256);
    for (let i = 0; i < out.length; i++) out[i] = a[i] + (((b[i] - a[i]) * weight) >> 8);
  } else if (mode === "difference") {
    for (let i = 0; i < out.length; i++) out[i] = 128 + ((a[i] - b[i]) >> 1);
  } else {
    const [nx, ny, nz] = shape;
    for (let z = 0, i = 0; z < nz; z++) {
      for (let y = 0; y < ny; y++) {
        const odd = Math.floor(y / squares[1]) + Math.floor(z / squares[2]);
        for (let x = 0; x < nx; x++, i++) {
          out[i] = (odd + Math.floor(x / squares[0])) % 2 ? b[i] : a[i];
        }
      }
    }
  }
}

// A slice of a volume: the axes that run along its columns and rows, its size, and its values.
function cut(volume, shape, normal, index) {
  const [across, up] = [0, 1, 2].filter((axis) => axis !== normal);
  const strides = [1, shape[0], shape[0] * shape[1]];
  const [columns, rows] = [shape[across], shape[up]];
  const values = new volume.constructor(columns * rows);
  let n = 0;
  for (let row = 0; row < rows; row++) {
    let i = index * strides[normal] + row * strides[up];
    for (let column = 0; column < columns; column++, i += strides[across]) values[n++] = volume[i];
  }
  return { across, up, columns, rows, values };
}

// Marching squares: pairs of edges that a contour enters and leaves a cell by, for each set of
// corners inside it; the inside is always on the same hand, so that pieces join into loops.
const TOP = 0, RIGHT = 1, BOTTOM = 2, LEFT = 3;
const CROSSINGS = [
  [], [LEFT, TOP], [TOP, RIGHT], [LEFT, RIGHT], [RIGHT, BOTTOM], [LEFT, TOP, RIGHT, BOTTOM],
  [TOP, BOTTOM], [LEFT, BOTTOM], [BOTTOM, LEFT], [BOTTOM, TOP], [TOP, RIGHT, BOTTOM, LEFT],
  [BOTTOM, RIGHT], [RIGHT, LEFT], [RIGHT, TOP], [TOP, LEFT], [],
];

// Outlines of each label in a slice: label -> loops of points [column, row, column, row, ...].
function outlines(slice) {
  const boxes = new Map();
  slice.values.forEach((label, n) => {
    if (!label) return;
    const column = n % slice.columns, row = (n - column) / slice.columns;
    const box = boxes.get(label);
    if (!box) boxes.set(label, [column, row, column, row]);
    else {
      box[0] = Math.min(box[0], column);
      box[2] = Math.max(box[2], column);
      box[3] = row;
    }
  });
  return new Map([...boxes].map(([label, box]) => [label, loopsAround(slice, label, box)]));
}

function loopsAround(slice, label, [left, top, right, bottom]) {
  const width = right - left + 7, height = bottom - top + 7; // a margin of 3 for the smoothing
  let soft = new Float32Array(width * height);
  for (let row = top; row <= bottom; row++) {
    for (let column = left; column <= right; column++) {
      if (slice.values[row * slice.columns + column] === label) {
        soft[(row - top + 3) * width + column - left + 3] = 1;
      }
    }
  }
  soft = smooth(smooth(soft, 1), width);
  const next = new Map();
  for (let row = 0; row < height - 1; row++) {
    for (let column = 0; column < width - 1; column++) {
      const n = row * width + column;
      const corners = (soft[n] > 0.5) + 2 * (soft[n + 1] > 0.5)
        + 4 * (soft[n + width + 1] > 0.5) + 8 * (soft[n + width] > 0.5);
      const crossed = CROSSINGS[corners];
      const edges = [2 * n, 2 * (n + 1) + 1, 2 * (n + width), 2 * n + 1];
      for (let k = 0; k < crossed.length; k += 2) next.set(edges[crossed[k]], edges[crossed[k + 1]]);
    }
  }
  const loops = [];
  while (next.size) {
    const loop = [];
    let edge = next.keys().next().value;
    while (next.has(edge)) {
      const n = edge >> 1, other = edge & 1 ? n + width : n + 1;
      const share = (0.5 - soft[n]) / (soft[other] - soft[n]);
      const column = n % width, row = (n - column) / width;
      loop.push(column + left - 3 + (edge & 1 ? 0 : share), row + top - 3 + (edge & 1 ? share : 0));
      const last = edge;
      edge = next.get(edge);
      next.delete(last);
    }
    loops.push(loop);
  }
  return loops;
}

function smooth(values, step) {
  const out = new Float32Array(values.length);
  for (let n = step; n < values.length - step; n++) {
    out[n] = (values[n - step] + 4 * values[n] + values[n + step]) / 6;
  }
  return out;
}

// The displacement (in voxels of the page) at a voxel, linear between those of its coarser grid.
function displacementAt(field, shape, voxel) {
  const { array, shape: coarse, step } = field, size = coarse[0] * coarse[1] * coarse[2];
  const base = [0, 0, 0], share = [0, 0, 0];
  for (let axis = 0; axis < 3; axis++) {
    const at = ((voxel[axis] + 0.5) * coarse[axis]) / shape[axis] - 0.5;
    const clamped = Math.min(Math.max(at, 0), coarse[axis] - 1);
    base[axis] = Math.min(Math.floor(clamped), Math.max(coarse[axis] - 2, 0));
    share[axis] = clamped - base[axis];
  }
  const u = [0, 0, 0];
  for (let corner = 0; corner < 8; corner++) {
    let weight = step, i = 0, stride = 1;
    for (let axis = 0; axis < 3; axis++) {
      const far = (corner >> axis) & 1;
      weight *= far ? share[axis] : 1 - share[axis];
      i += Math.min(base[axis] + far, coarse[axis] - 1) * stride;
      stride *= coarse[axis];
    }
    if (weight) for (let axis = 0; axis < 3; axis++) u[axis] += weight * array[i + axis * size];
  }
  return u;
}

// Lines through the voxels x of a slice, every so many mm, drawn at x + u(x): pieces
// [column, row, column, row, length of u in mm].
function gridLines(field, shape, spacing, normal, index, every) {
  const axes = [0, 1, 2].filter((axis) => axis !== normal), pieces = [];
  axes.forEach((along, n) => {
    const across = axes[1 - n];
    const apart = Math.max(every / spacing[across], 1), between = Math.max(3 / spacing[along], 1);
    for (let line = apart / 2; line < shape[across]; line += apart) {
      let last = null;
      for (let at = 0; at < shape[along]; at += between) {
        const voxel = [index, index, index];
        voxel[across] = line;
        voxel[along] = at;
        const u = displacementAt(field, shape, voxel);
        const point = axes.map((axis) => voxel[axis] + u[axis]);
        if (last) pieces.push([...last, ...point, Math.hypot(...u.map((v, k) => v * spacing[k]))]);
        last = point;
      }
    }
  });
  return pieces;
}

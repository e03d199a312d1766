"use strict";
// What the slices show, in words: the legend, the values at the crosshair, and where an organ is.

function showLegend() {
  const { settings } = viewer, { layers } = entry().volumes, parts = [];
  const bar = (title, colors, ticks) => {
    const strip = element("i", { style: { background: `linear-gradient(to right, ${colors.join(", ")})` } });
    parts.push(element("div", { class: "colorbar" }, element("span", {}, title), strip,
      element("div", {}, ...ticks.map((tick) => element("small", {}, tick)))));
  };
  const note = (...children) => parts.push(element("div", { class: "note" }, ...children));
  const shown = settings.pair.map((image) => layers[`${image}_labels`]);
  if (settings.outlines && (shown[0] || shown[1])) {
    shown.forEach((there, n) => there && note(element("i", { class: n ? "dashed" : "solid" }), imageName(settings.pair[n])));
  }
  if (settings.mode === "difference") {
    bar("difference (share of the window)", data.colors.difference, ["−1", "0", "+1"]);
  }
  if (settings.map === "entropy") {
    const { low, high } = layers.entropy;
    bar("entropy (nat)", data.colors.entropy, [low, (low + high) / 2, high].map((v) => v.toFixed(2)));
    note("Low where the images say clearly what matches, high where the neighbours decide.");
  }
  if (settings.map === "jacobian") {
    bar("Jacobian determinant", data.colors.jacobian, ["¼", "½", "1", "2", "4"]);
    note(element("i", { class: "fold" }), "fold (J ≤ 0)");
    note("Above 1: the tissue takes more room in the moving image than in the fixed one.");
  }
  if (settings.grid && layers.displacement) {
    bar("displacement (mm)", data.colors.displacement, [0, viewer.lines.longest / 2, viewer.lines.longest].map((v) => v.toFixed(0)));
    note("The grid's lines lie 9 mm apart in the fixed image; they are drawn where the deformation takes them in the moving one.");
  }
  get("legend").replaceChildren(...parts);
}

// What lies at the crosshair.
function showReadout() {
  const { layers } = entry().volumes, { first, last, fold } = data.bytes, parts = [];
  const item = (name, value) => parts.push(element("span", {}, element("small", {}, name), value));
  const { position, voxel, fraction } = viewer;
  item("crosshair", `${position.map((mm) => mm.toFixed(1)).join(", ")} mm RAS`);
  for (const image of Object.keys(IMAGES)) {
    if (!layers[image]) continue;
    const { low, high } = layers[image], grey = viewer.value(image);
    const value = (low + (grey / 255) * (high - low)).toPrecision(3);
    const organ = viewer.value(`${image}_labels`);
    const beyond = grey === 0 ? "≤ " : grey === 255 ? "≥ " : "";
    item(image, `${beyond}${Number(value)}${organ ? `, ${organName(organ)}` : ""}`);
  }
  for (const map of ["entropy", "jacobian"]) {
    const byte = viewer.value(map);
    if (!byte) continue;
    const { low, high } = layers[map], value = low + ((byte - first) / (last - first)) * (high - low);
    if (map === "entropy") item("entropy", `${value.toFixed(2)} nat`);
    else item("Jacobian", byte === fold ? "fold" : Math.exp(value).toFixed(2));
  }
  if (viewer.field) {
    const u = displacementAt(viewer.field, viewer.shape, fraction.map((f, n) => f * viewer.shape[n] - 0.5));
    item("displacement", `${Math.hypot(...u.map((v, n) => v * entry().volumes.spacing[n])).toFixed(1)} mm`);
  }
  get("readout").replaceChildren(...parts);
  voxel.forEach((v, axis) => { get(`slice${axis}`).value = v; });
}

const colorOf = (label) => data.labelColors[(label - 1) % data.labelColors.length];
const organName = (label) => entry().labels[label] || `label ${label}`;

// Move the crosshair to the voxel of an organ that is nearest to its centre.
function showOrgan(label) {
  const labels = viewer && (viewer.arrays.fixed_labels || viewer.arrays.warped_labels);
  if (!labels || !label) return false;
  const [nx, ny] = viewer.shape, sum = [0, 0, 0], voxels = [];
  labels.forEach((value, i) => {
    if (value !== label) return;
    const voxel = [i % nx, Math.floor(i / nx) % ny, Math.floor(i / (nx * ny))];
    voxel.forEach((v, n) => { sum[n] += v; });
    voxels.push(voxel);
  });
  if (!voxels.length) return false;
  const apart = (voxel) => voxel.reduce((d, v, n) => d + (v - sum[n] / voxels.length) ** 2, 0);
  viewer.moveTo(voxels.reduce((best, voxel) => (apart(voxel) < apart(best) ? voxel : best)));
  return true;
}

// The organ to begin with: the one that takes most room.
function mainOrgan() {
  const labels = viewer.arrays.fixed_labels || viewer.arrays.warped_labels || [], counts = new Map();
  labels.forEach((label) => label && counts.set(label, (counts.get(label) || 0) + 1));
  return [...counts].reduce((best, next) => (next[1] > best[1] ? next : best), [0, 0])[0];
}

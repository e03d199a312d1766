"use strict";
// The page: reads its data, connects the controls, shows one case at a time.

const get = (id) => document.getElementById(id);
const data = JSON.parse(get("report").textContent);
const IMAGES = { fixed: "fixed", moving: "moving", warped: "warped" };
const MODES = { fade: "Fade", checkerboard: "Checkerboard", difference: "Difference" };
const MAPS = { entropy: "entropy", jacobian: "Jacobian" };

let viewer = null, table = null, plots = null, current = -1, loading = Promise.resolve();

// Buttons of which one is pressed, as radio buttons: { value: text }.
function segments(place, name, choices, chosen, onChoose) {
  place.replaceChildren(...Object.entries(choices).map(([value, text]) => element("label", {},
    element("input", { type: "radio", name, value, checked: value === chosen, onchange: () => onChoose(value) }),
    element("span", {}, text))));
}

function imageName(image) {
  return image === "moving" && entry().volumes.layers.moving.aligned ? "moving, aligned" : image;
}

const entry = () => data.cases[current];

// Show case n: its numbers at once, its images after those of the case before.
function choose(n) {
  current = n;
  const { name, volumes, report } = entry();
  const { fixed: to, moving: what } = report.inputs, files = to && what ? `${what} registered to ${to}` : "";
  if (table) {
    table.choose(n);
    plots.choose(n);
    history.replaceState(null, "", `#${encodeURIComponent(name)}`);
    get("case-name").replaceChildren(name, element("small", {}, files));
  } else get("subtitle").textContent = files;
  organTable(get("organs"), entry(), colorOf, showOrgan);
  facts(get("facts"), entry());
  showPicture();
  showTrouble(entry().notes.join(" "));
  get("viewer").hidden = !viewer || !volumes;
  get("viewer").dataset.ready = "";
  if (viewer && volumes) loading = loading.then(() => showImages(n));
  return loading;
}

async function showImages(n) {
  if (n !== current) return; // another case was chosen meanwhile
  const { name, volumes } = entry(), arrays = {};
  for (const [layer, { type }] of Object.entries(volumes.layers)) {
    arrays[layer] = await unpack(`case${n}-${layer}`, type);
  }
  if (n !== current) return;
  fitSettings(volumes.layers);
  await viewer.show(volumes, arrays);
  showControls();
  if (!showOrgan(mainOrgan())) viewer.moveTo(volumes.shape.map((size) => Math.floor(size / 2)));
  get("viewer").dataset.ready = name;
}

// Settings stay from case to case where the case has what they need.
function fitSettings(layers) {
  const { settings } = viewer, pairs = Object.keys(pairsOf(layers));
  if (!pairs.includes(settings.pair.join(" "))) settings.pair = (pairs[0] || "warped warped").split(" ");
  if (!layers[settings.map]) settings.map = "";
}

function pairsOf(layers) {
  const pairs = {};
  for (const pair of ["fixed moving", "fixed warped", "moving warped"]) {
    const [a, b] = pair.split(" ");
    if (layers[a] && layers[b]) pairs[pair] = `${a} – ${b}`;
  }
  return pairs;
}

function showControls() {
  const { settings } = viewer, { layers } = entry().volumes, pairs = pairsOf(layers);
  get("controls").hidden = !Object.keys(pairs).length;
  segments(get("pairs"), "pair", pairs, settings.pair.join(" "), (pair) => {
    settings.pair = pair.split(" ");
    changed();
  });
  segments(get("modes"), "mode", MODES, settings.mode, (mode) => {
    settings.mode = mode;
    changed();
  });
  get("map").replaceChildren(element("option", { value: "" }, "none"), ...Object.keys(MAPS)
    .filter((map) => layers[map]).map((map) => element("option", { value: map, selected: map === settings.map }, MAPS[map])));
  get("map-control").hidden = !layers.entropy && !layers.jacobian;
  get("grid-control").hidden = !layers.displacement;
  get("outlines-control").hidden = !layers.fixed_labels && !layers.warped_labels;
  viewer.shape.forEach((n, axis) => Object.assign(get(`slice${axis}`), { min: 0, max: n - 1 }));
  changed();
}

// Bring the page in line with the settings, its controls too: browsers restore older values of these.
function changed() {
  const { settings } = viewer, [first, second] = settings.pair;
  get("fader").hidden = settings.mode !== "fade";
  get("squares").hidden = settings.mode !== "checkerboard";
  get("first").textContent = first;
  get("second").textContent = second;
  get("size-mm").textContent = `${settings.squaresMm} mm`;
  get("opacity-control").hidden = !settings.map;
  get("fade").value = 100 * settings.share;
  get("size").value = settings.squaresMm;
  get("opacity").value = 100 * settings.opacity;
  get("zoom").value = settings.zoom;
  get("map").value = settings.map;
  get("convention").value = settings.radiological ? "radiological" : "neurological";
  get("outlines").checked = settings.outlines;
  get("grid").checked = settings.grid;
  viewer.update();
  showLegend();
  showReadout();
}

function showPicture() {
  get("picture").hidden = !entry().picture;
  const show = () => {
    if (entry().picture) get("picture").querySelector("img").src = `data:image/jpeg;base64,${get(`case${current}-picture`).textContent}`;
  };
  get("picture").ontoggle = () => get("picture").open && show();
  if (!viewer) get("picture").open = true;
  if (get("picture").open) show();
}

let problem = ""; // what keeps the viewer from working, for all cases

function showTrouble(notes) {
  const text = [problem, notes].filter(Boolean).join(" ");
  get("trouble").hidden = !text;
  get("trouble").textContent = text;
}

function connect() {
  const { settings } = viewer;
  let waiting = false;
  const later = () => { // at most once for each frame that the screen shows
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; changed(); });
  };
  const on = (id, event, set, then = later) => get(id).addEventListener(event, () => { set(get(id)); then(); });
  const redraw = () => { viewer.redraw(); showLegend(); };
  const fade = (share) => { settings.share = share; later(); };
  on("fade", "input", (input) => { settings.share = input.value / 100; });
  get("first").addEventListener("click", () => fade(0));
  get("second").addEventListener("click", () => fade(1));
  const flip = () => fade(settings.share < 0.5 ? 1 : 0);
  get("flip").addEventListener("click", flip);
  on("size", "input", (input) => { settings.squaresMm = Number(input.value); });
  on("map", "change", (select) => { settings.map = select.value; });
  on("opacity", "input", (input) => { settings.opacity = input.value / 100; });
  on("outlines", "change", (box) => { settings.outlines = box.checked; }, redraw);
  on("grid", "change", (box) => { settings.grid = box.checked; }, redraw);
  on("convention", "change", (select) => { settings.radiological = select.value === "radiological"; });
  on("zoom", "input", (input) => { settings.zoom = Number(input.value); }, () => { viewer.setZoom(); viewer.redraw(); });
  for (const axis of [0, 1, 2]) {
    on(`slice${axis}`, "input", () => {}, () => {
      const voxel = [...viewer.voxel];
      voxel[axis] = Number(get(`slice${axis}`).value);
      viewer.moveTo(voxel);
    });
  }
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT)$/.test(event.target.tagName) && event.target.type !== "range";
    if (event.key.toLowerCase() === "f" && !event.ctrlKey && !event.metaKey && !event.altKey && !typing) flip();
  });
}

async function start() {
  if (!document.createElement("canvas").getContext("webgl2")) {
    problem = "This browser has no WebGL2, which the slice viewer needs: the picture below and the measurements are here all the same.";
  } else {
    try {
      viewer = new Viewer(data.colors, data.labelColors, data.bytes, () => showReadout());
      await viewer.start();
      connect();
    } catch (error) {
      viewer = null;
      problem = `The slice viewer did not start (${error.message}): the picture below and the measurements are here all the same.`;
    }
  }
  if (data.cases.length > 1) {
    get("cohort").hidden = get("case-name").hidden = false;
    table = new CaseTable(get("cases"), data.cases, choose);
    plots = new Plots(get("plots"), data.cases, choose);
  }
  const asked = data.cases.findIndex(({ name }) => `#${encodeURIComponent(name)}` === location.hash);
  await choose(Math.max(asked, 0));
  document.body.dataset.ready = "true";
}

start();

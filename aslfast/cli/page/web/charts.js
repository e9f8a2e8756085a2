// Line charts with intervals by uPlot: drag to zoom, double click to see all again, hover to read.

const charts = new Set();
const cssColour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// lines: [{label, colour, x, y, low, high, thin}]. broken: a line has a gap where another one has values and it has none.
function lineChart({ title, lines, xLabel, asPercent = false, marks = [], broken = false }) {
  const host = el('figure', { class: 'chart' }, el('figcaption', {}, title));
  const drawn = lines.filter((line) => line.y.some((value) => value !== null && value !== undefined));
  if (!drawn.length) return el('figure', { class: 'chart' }, el('figcaption', {}, title), el('p', { class: 'quiet' }, 'Nothing was measured.'));
  const place = el('div', { class: 'plot', role: 'img', 'aria-label': `${title}. The table below has the figures.` });
  host.append(place, figures(drawn, xLabel, asPercent));
  const chart = { host: place, draw: () => drawInto(place, drawn, xLabel, { asPercent, marks, broken }) };
  charts.add(chart);
  new ResizeObserver(() => chart.draw()).observe(place);
  return host;
}

function redrawCharts() {
  for (const chart of charts) {
    if (chart.host.isConnected) chart.draw();
    else charts.delete(chart);
  }
}

const labelOf = (line) => line.label;

function figures(lines, xLabel, asPercent) {
  const x = allX(lines);
  const show = asPercent ? percent : number;
  const details = el('details', {}, el('summary', {}, 'Figures'));
  details.addEventListener('toggle', () => {
    if (details.childElementCount > 1) return;
    const shown = lines.filter((line) => !line.thin);
    const rows = x.map((at) => [String(at), ...shown.map((line) => cell(line, at, show))]);
    details.append(table([xLabel, ...shown.map(labelOf)], rows, 'Figures of the chart'));
  });
  return details;
}

function cell(line, at, show) {
  const i = line.x.indexOf(at);
  if (i < 0) return '–';
  const spread = line.low ? ` (${show(line.low[i])} to ${show(line.high[i])})` : '';
  return show(line.y[i]) + spread;
}

const allX = (lines) => [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);

function aligned(lines) {
  const x = allX(lines);
  const columns = [x];
  for (const line of lines) {
    const at = new Map(line.x.map((value, i) => [value, i]));
    const pick = (values) => x.map((value) => (at.has(value) ? values[at.get(value)] ?? null : null));
    columns.push(pick(line.y));
    if (line.low) columns.push(pick(line.high), pick(line.low));
  }
  return columns;
}

function drawInto(place, lines, xLabel, { asPercent, marks, broken }) {
  const width = Math.max(240, place.clientWidth);
  if (place.drawnWidth === width && place.drawnTheme === document.documentElement.dataset.theme) return;
  Object.assign(place, { drawnWidth: width, drawnTheme: document.documentElement.dataset.theme });
  place.uplot?.destroy();
  const grid = { stroke: cssColour('--line'), width: 1 };
  const show = asPercent ? (value) => percent(value, 0) : (value) => `${value}`;
  const axis = { stroke: cssColour('--quiet'), grid, ticks: grid, font: '12px system-ui, sans-serif' };
  const { series, bands } = seriesOf(lines, xLabel, asPercent, !broken);
  place.uplot = new uPlot({
    width, height: Math.max(200, Math.min(300, width * 0.55)), series, bands,
    scales: { x: { time: false }, y: { range: asPercent ? [0, 1] : rangeOf } },
    axes: [{ ...axis, label: xLabel, labelSize: 18, labelFont: '12px system-ui, sans-serif', incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] }, { ...axis, size: 52, values: (_, values) => values.map(show) }],
    cursor: { drag: { x: true, y: false }, focus: { prox: 24 } }, legend: { live: true },
    hooks: { draw: [(plot) => drawMarks(plot, marks)] },
  }, aligned(lines), place);
  nameLegend(place);
}

// a line that is all one value needs some room
function rangeOf(_, low, high) {
  const bottom = Math.min(0, low);
  return high - bottom < 1e-9 ? [bottom, bottom + 1] : [bottom, high + 0.05 * (high - bottom)];
}

function seriesOf(lines, xLabel, asPercent, spanGaps) {
  const series = [{ label: xLabel.split(' ').find((word) => /step|round/.test(word)) ?? xLabel }];
  const bands = [];
  const value = (_, v) => (v === null || v === undefined ? '–' : asPercent ? percent(v) : number(v, 3));
  for (const line of lines) {
    const stroke = cssColour(line.colour);
    const points = { show: !line.thin && line.x.length < 40, size: 6, fill: stroke };
    series.push({ label: line.label, stroke, width: line.thin ? 1 : 2, alpha: line.thin ? 0.35 : 1, class: line.thin ? 'edge' : 'line', points, value, spanGaps });
    if (!line.low) continue;
    const edge = { stroke: 'transparent', points: { show: false }, value, spanGaps };
    series.push({ ...edge, label: 'high', class: 'edge' }, { ...edge, label: 'low', class: 'edge' });
    bands.push({ series: [series.length - 2, series.length - 1], fill: `color-mix(in srgb, ${stroke} 16%, transparent)` });
  }
  return { series, bands };
}

function drawMarks(plot, marks) {
  const { ctx } = plot;
  ctx.save();
  ctx.strokeStyle = cssColour('--alarm');
  ctx.setLineDash([4, 4]);
  for (const mark of marks) {
    const x = Math.round(plot.valToPos(mark, 'x', true));
    ctx.beginPath();
    ctx.moveTo(x, plot.bbox.top);
    ctx.lineTo(x, plot.bbox.top + plot.bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}

// the legend is a table of which the first line is the place of the pointer
function nameLegend(place) {
  for (const row of place.querySelectorAll('.u-series.edge')) row.hidden = true;
  place.querySelector('.u-legend')?.setAttribute('aria-hidden', 'true');
}

const SMOOTH = 5;

function runningMean(values) {
  return values.map((_, i) => mean(values.slice(Math.max(0, i + 1 - SMOOTH), i + 1)));
}

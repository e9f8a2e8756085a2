// The first view: what came of the run, and the curves.

function overview(run) {
  return [
    el('h1', {}, run.sentence),
    el('p', { class: 'quiet' }, scope(run)),
    el('dl', { class: 'cards' }, ...cards(run)),
    run.problem ? el('p', { class: 'alarms' }, run.problem) : null,
    alarmList(run),
    el('div', { class: 'charts' }, truthChart(run), hopsChart(run), rewardChart(run), ...roleCharts(run)),
    others(run),
  ];
}

function scope(run) {
  const kept = run.kept < run.total ? `; this page shows ${whole(run.kept)} of them, whole groups` : '';
  return `${plural(run.rounds.length - 1, 'round')}, ${plural(run.steps.length, 'optimizer step')}, ${plural(run.total, 'trained trajectory').replace('trajectorys', 'trajectories')}${kept}.`;
}

const TRUTHS = [
  ['policy_accuracy', 'policy', 'Policy: right answers', '--policy'],
  ['grm_accuracy', 'grm', 'Judge: right verdicts', '--grm'],
  ['solvable_share', 'solvable', 'Generator: solvable questions', '--generator'],
];

function cards(run) {
  const last = run.rounds[run.rounds.length - 1];
  const found = TRUTHS.filter(([key]) => measured(run, key).length).map(([key, name, title]) => {
    const lines = measured(run, key);
    const [first, end] = [lines[0], lines[lines.length - 1]];
    const interval = end[`${name}_interval`];
    const spread = interval ? `95%: ${percent(interval[0], 0)} to ${percent(interval[1], 0)}; ` : '';
    return card(title, percent(end[key]), `${spread}${percent(first[key])} at the start`);
  });
  const speeds = run.steps.map((step) => step.tokens_per_s).filter((value) => value);
  const seconds = run.rounds.reduce((sum, line) => sum + line.seconds, 0);
  found.push(card('Time', clock(seconds), speeds.length ? `${whole(Math.round(mean(speeds)))} sampled tokens/s in a step` : null));
  if ('alarms' in last) found.push(card('Alarms', String(run.alarms.length), run.alarms.length ? 'listed below' : 'none'));
  return found;
}

const measured = (run, key) => run.rounds.filter((line) => line[key] !== null && line[key] !== undefined);

function alarmList(run) {
  if (!run.alarms.length) return null;
  const items = run.alarms.map((text) => el('li', {}, text));
  return el('section', { class: 'alarms' }, el('h2', {}, 'Alarms'), el('ul', {}, items));
}

const alarmRounds = (run) => run.rounds.filter((line) => line.alarms?.length).map((line) => line.round);

function truthChart(run) {
  const lines = TRUTHS.map(([key, name, label, colour]) => {
    const seen = measured(run, key);
    const edge = (side) => seen.map((line) => line[`${name}_interval`]?.[side] ?? null);
    return { label, colour, x: seen.map((line) => line.round), y: seen.map((line) => line[key]), low: edge(0), high: edge(1) };
  });
  const title = 'Against the truth, on held-out tasks, with 95% intervals';
  return lineChart({ title, lines, xLabel: 'round (0: the base)', asPercent: true, marks: alarmRounds(run) });
}

function hopsChart(run) {
  const hops = [...new Set(run.rounds.flatMap((line) => Object.keys(line.by_hops ?? {})))].sort((a, b) => a - b);
  if (!hops.length) return null;
  const lines = hops.map((hop, i) => {
    const seen = run.rounds.filter((line) => line.by_hops?.[hop]);
    const pick = (key) => seen.map((line) => line.by_hops[hop][key]);
    return { label: plural(Number(hop), 'hop'), colour: OTHER_COLOURS[i % 5], x: seen.map((line) => line.round), y: pick('accuracy'), low: pick('low'), high: pick('high') };
  });
  return lineChart({ title: 'Policy accuracy by hops of the question', lines, xLabel: 'round (0: the base)', asPercent: true });
}

// what a line of metrics.jsonl says of each role: the whole line where its phase is one role's
const byRole = (step) => step.roles ?? { [step.phase]: step };

const known = (value) => typeof value === 'number';

// of a step in which several roles played, what is an adapter's: the first one's in the line itself, others in a table
function ofRole(step, role, key) {
  const roles = byRole(step);
  if (!Object.hasOwn(roles, role) || known(roles[role][key])) return roles[role]?.[key];
  const others = step.other_updates ?? {};
  const first = Object.keys(roles).find((each) => !Object.hasOwn(others, each)); // whose update is the line's own
  return role === first ? step[key] : others[role]?.[key];
}

function stepsOf(run, role, key) {
  const found = { x: [], y: [] };
  run.steps.forEach((step, i) => {
    const value = ofRole(step, role, key);
    if (!known(value)) return;
    found.x.push(i + 1);
    found.y.push(value);
  });
  return found;
}

function rewardChart(run) {
  const lines = run.roles.flatMap((role) => {
    const { x, y } = stepsOf(run, role, 'reward');
    const colour = roleColour(role, run.roles);
    return [{ label: `${roleName(role)}, each step`, colour, x, y, thin: true }, { label: roleName(role), colour, x, y: runningMean(y) }];
  });
  return lineChart({ title: `Reward that the roles saw (running mean of ${SMOOTH} steps)`, lines, xLabel: 'optimizer step of the run', broken: true });
}

const ROLE_METRICS = [
  ['entropy', 'Entropy, nats a token'], ['tokens', 'Sampled tokens a trajectory'],
  ['zero_variance_groups', 'Share of groups of equal rewards, which teach nothing'], ['grad_norm', 'Gradient norm'],
];

function roleCharts(run) {
  return ROLE_METRICS.map(([key, title]) => {
    const lines = run.roles.map((role) => ({ label: roleName(role), colour: roleColour(role, run.roles), ...stepsOf(run, role, key) }));
    return lineChart({ title, lines, xLabel: 'optimizer step of the run', broken: true });
  });
}

// two runs in one page: their main figures on one chart
function others(run) {
  if (runs.length < 2) return null;
  const lines = runs.map((each, i) => {
    const seen = measured(each, 'policy_accuracy');
    const edge = (side) => seen.map((line) => line.policy_interval?.[side] ?? null);
    return { label: each.name, colour: OTHER_COLOURS[i], x: seen.map((line) => line.round), y: seen.map((line) => line.policy_accuracy), low: edge(0), high: edge(1) };
  });
  return el('section', {}, el('h2', {}, 'Both runs'), el('div', { class: 'charts' }, lineChart({ title: 'Policy accuracy', lines, xLabel: 'round', asPercent: true })));
}

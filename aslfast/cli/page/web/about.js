// The time of every step, the configuration, and what the run's figures depend on.

// of a step, in the order of aslfast.clock.PARTS; an evaluation belongs to a round
const PARTS = [
  ['rollout', '--policy'], ['tool', '--generator'], ['reward', '--other-1'], ['learn', '--grm'], ['sync', '--other-5'],
  ['commit', '--other-3'], ['monitor', '--other-4'], ['rest', '--quiet'],
];

// a run of an earlier version says how long a step took, not on what
const partsOf = (step, run) => (step.time
  ? PARTS.map(([name, colour]) => [name, step.time[name] ?? 0, colour]).filter(([, seconds]) => seconds)
  : [['all', step.seconds ?? 0, roleColour(step.phase, run.roles)]]);
const secondsOf = (step) => (step.time ? PARTS.reduce((sum, [name]) => sum + (step.time[name] ?? 0), 0) : step.seconds ?? 0);

function timeline(run) {
  const slowest = Math.max(...run.steps.map(secondsOf), 1e-9);
  const timed = run.steps.some((step) => step.time);
  const restarts = Math.max(0, ...run.steps.map((step) => step.engine_restarts ?? 0));
  const legend = PARTS.map(([name, colour]) => el('li', { vars: { '--own': `var(${colour})` } }, name));
  return [
    el('h1', {}, 'Time'), el('p', { class: 'quiet' }, `A bar is an optimizer step; the tallest took ${clock(slowest)}.`),
    timed ? el('ul', { class: 'legend', 'aria-label': 'Parts of a step' }, legend) : null,
    el('ol', { class: 'timeline', 'aria-label': 'Steps of the run' }, run.steps.map((step, i) => stepBar(run, step, i, slowest))),
    restarts ? el('p', { class: 'alarms' }, `The engine was started again ${plural(restarts, 'time')}: engine.log in the run's folder says why.`) : null,
    timed ? partTable(run) : null, phaseTable(run), cacheTable(run), roundTimes(run),
  ];
}

function stepBar(run, step, i, slowest) {
  const parts = partsOf(step, run);
  const facts = [
    ...parts.map(([name, seconds]) => `${name} ${number(seconds, 2)} s`), `${whole(step.sampled_tokens)} sampled tokens, ${whole(Math.round(step.tokens_per_s ?? 0))} a second`,
    ...(known(step.mfu) ? [`learner's MFU ${percent(step.mfu)}`] : []),
    ...(step.in_flight ? [`at most ${plural(step.in_flight.requests, 'request')} in flight`] : []),
    ...(step.engine_restarts ? [`engine restarts so far: ${step.engine_restarts}`] : []),
  ];
  const text = `step ${i + 1} (${roleName(step.phase)}, round ${step.round}, ${step.step} of the phase): ${facts.join('; ')}`;
  const hash = hashOf(['trajectories'], { role: run.roles.includes(step.phase) ? step.phase : '', round: step.round, step: step.step, run: run.number || '' });
  const pieces = parts.map(([, seconds, colour]) => el('span', { vars: { '--own': `var(${colour})`, '--share': String(seconds) } }));
  return el('li', {}, link(hash, pieces, { title: text, 'aria-label': text, vars: { '--height': `${(100 * secondsOf(step)) / slowest}%` } }));
}

const sumOver = (steps, of) => steps.reduce((total, step) => total + (of(step) ?? 0), 0);

function partTable(run) {
  const steps = run.steps.filter((step) => step.time);
  const phases = [...new Set(steps.map((step) => step.phase))];
  const all = sumOver(steps, (step) => sumOver(Object.values(step.time), (seconds) => seconds));
  const rows = [...PARTS.map(([name]) => name), 'evaluation'].map((name) => {
    const own = phases.map((phase) => sumOver(steps, (step) => (step.phase === phase ? step.time[name] : 0)));
    const sum = sumOver(own, (seconds) => seconds);
    return [name, ...own.map((seconds) => number(seconds, 1)), number(sum, 1), percent(sum / all)];
  });
  return table(['part', ...phases.map(roleName), 'all', 'share'], rows.filter((row) => row[row.length - 2] !== '0.0'), 'Seconds by part; a step begins where the one before it ended');
}

function phaseTable(run) {
  const rows = [...grouped(run.steps, (step) => step.phase)].map(([phase, steps]) => {
    const sum = (key) => sumOver(steps, (step) => step[key]);
    const most = (of) => (steps.some((step) => known(of(step))) ? Math.max(...steps.map((step) => of(step) ?? 0)) : undefined);
    const learnt = steps.filter((step) => known(step.mfu) && step.time?.learn);
    const mfu = learnt.length ? sumOver(learnt, (step) => step.mfu * step.time.learn) / sumOver(learnt, (step) => step.time.learn) : null;
    return [
      roleBadge(phase, run.roles), whole(steps.length), clock(sum('seconds')), number(sum('seconds') / steps.length, 1), whole(sum('sampled_tokens')),
      whole(Math.round(sum('sampled_tokens') / Math.max(sum('seconds'), 1e-9))), whole(sum('forward_tokens')), whole(sum('shared_tokens')),
      percent(mfu), whole(most((step) => step.in_flight?.requests)), whole(most((step) => step.in_flight?.tokens)), number(most((step) => step.peak_memory_gb), 1),
    ];
  });
  const heads = ['phase', 'steps', 'time', 'seconds a step', 'sampled tokens', 'tokens/s', 'learner: tokens forward', 'shared', 'MFU', 'requests at once', 'their tokens', 'peak memory, GB'];
  return table(heads, rows, 'Time by phase');
}

function roundTimes(run) {
  const rows = run.rounds.map((line) => [String(line.round), clock(line.seconds), clock(line.seconds - run.steps.filter((step) => step.round === line.round).reduce((sum, step) => sum + (step.seconds ?? 0), 0))]);
  return table(['round', 'time', 'of which outside of steps: evaluation, saving'], rows, 'Time by round');
}

function cacheTable(run) {
  const total = {};
  for (const step of run.steps) {
    for (const [adapter, counts] of Object.entries(step.prefix_cache ?? {})) {
      total[adapter] ??= {};
      for (const [key, count] of Object.entries(counts)) total[adapter][key] = (total[adapter][key] ?? 0) + count;
    }
  }
  const rows = Object.entries(total).map(([adapter, n]) => [roleName(adapter), whole(n.requests), whole(n.context), whole(n.reused), n.context ? percent(n.reused / n.context) : '–']);
  return rows.length ? table(['adapter', 'requests', 'prompt tokens', 'not computed again', 'share'], rows, 'Prompt tokens that the sampler reused') : null;
}

function configView(run) {
  const { inputs = {}, software = {} } = run.provenance ?? {};
  return [
    el('h1', {}, 'Configuration and provenance'),
    table(['software', 'version'], Object.entries(software).map(([name, version]) => [name, el('span', {}, version)]), 'What it ran with'),
    table(['input', 'checksum'], Object.entries(inputs).map(([name, sum]) => [name, el('code', {}, sum)]), 'What it read'),
    el('h2', {}, 'config.toml'), el('pre', { class: 'config', tabindex: 0 }, run.config),
  ];
}

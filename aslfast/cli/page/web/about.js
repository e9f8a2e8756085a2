// The time of every step, the configuration, and what the run's figures depend on.

function timeline(run) {
  const slowest = Math.max(...run.steps.map((step) => step.seconds ?? 0), 1e-9);
  const bars = run.steps.map((step, i) => {
    const role = run.roles.includes(step.phase) ? step.phase : '';
    const text = `step ${i + 1} (${roleName(step.phase)}, round ${step.round}, ${step.step} of the phase): ${number(step.seconds, 1)} s, ${whole(step.sampled_tokens)} sampled tokens, ${whole(Math.round(step.tokens_per_s ?? 0))} tokens/s`;
    return el('li', {}, link(hashOf(['trajectories'], { role, round: step.round, step: step.step, run: run.number || '' }), '', {
      title: text, 'aria-label': text, vars: { '--own': `var(${roleColour(step.phase, run.roles)})`, '--height': `${(100 * (step.seconds ?? 0)) / slowest}%` },
    }));
  });
  const phases = [...grouped(run.steps, (step) => step.phase)].map(([phase, steps]) => {
    const sum = (key) => steps.reduce((total, step) => total + (step[key] ?? 0), 0);
    return [roleBadge(phase, run.roles), whole(steps.length), clock(sum('seconds')), number(sum('seconds') / steps.length, 1), whole(sum('sampled_tokens')), whole(Math.round(sum('sampled_tokens') / Math.max(sum('seconds'), 1e-9))), whole(sum('forward_tokens')), whole(sum('shared_tokens'))];
  });
  return [
    el('h1', {}, 'Time'), el('p', { class: 'quiet' }, `A bar is an optimizer step; the tallest took ${clock(slowest)}.`),
    el('ol', { class: 'timeline', 'aria-label': 'Steps of the run' }, bars),
    table(['phase', 'steps', 'time', 'seconds a step', 'sampled tokens', 'tokens/s', 'learner: tokens forward', 'shared'], phases, 'Time by phase'),
    cacheTable(run), roundTimes(run),
  ];
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

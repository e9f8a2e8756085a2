// The same task across rounds and runs, and two trajectories side by side.

function taskView(run, query) {
  const question = query.get('q') ?? '';
  const found = runs.map((each) => [each, each.about(question)]).filter(([, rows]) => rows.length);
  const written = run.questions.find((each) => each.text === question);
  return [
    el('h1', {}, question || 'No question'),
    written ? el('p', {}, `Accepted in round ${written.round}. Reference: ${written.references.join(' / ') || 'none'}.`) : null,
    written?.attempts.length ? el('section', {}, el('h2', {}, 'Attempts when it was written'), answers(written)) : null,
    found.length ? el('div', { class: 'panes' }, found.map(([each, rows]) => taskIn(each, rows))) : el('p', { class: 'quiet' }, 'No trajectory was trained on it.'),
  ];
}

function taskIn(run, rows) {
  const byPlace = grouped(rows, (i) => `${run.table.round[i]}|${run.get('role', i)}`);
  const lines = [...byPlace].sort(([a], [b]) => parseInt(a, 10) - parseInt(b, 10)).map(([place, found]) => {
    const [round, role] = place.split('|');
    const rewards = found.map((i) => run.table.reward[i]).filter((value) => value !== null);
    const right = found.filter((i) => run.table.match[i] !== null);
    return [round, roleBadge(role, run.roles), whole(found.length), number(mean(rewards)), right.length ? percent(share(right, (i) => run.table.match[i] === 1), 0) : '–', outputs(run, found)];
  });
  return el('section', {}, runs.length > 1 ? el('h2', {}, run.name) : null, table(['round', 'role', 'trajectories', 'mean reward', 'match', 'outputs'], lines, 'Trajectories about this question by round'));
}

function outputs(run, rows) {
  const byOutput = [...grouped(rows, (i) => run.get('output', i) ?? `(${run.get('stop', i)})`)].sort((a, b) => b[1].length - a[1].length);
  return el('ul', { class: 'answers' }, byOutput.slice(0, 8).map(([output, found]) => el('li', {}, link(viewerHash(run, found[0]), output), found.length > 1 ? ` × ${found.length}` : '')));
}

function compareView(run, query) {
  const other = runs[Number(query.get('with') || run.number)] ?? run;
  const pair = [[run, query.get('a')], [other, query.get('b')]];
  return [el('h1', {}, 'Side by side'), el('div', { class: 'panes' }, pair.map(([each, key]) => paneOf(each, key ?? '', query)))];
}

function paneOf(run, key, query) {
  const i = run.rowOfKey.get(key);
  if (i === undefined) return el('section', {}, el('p', { class: 'quiet' }, 'No such trajectory.'));
  const turns = el('div', { class: 'turns' });
  const facts = el('div', {});
  run.body(i).then((body) => {
    turns.replaceChildren(...turnsOf(run, i, body, query.get('colour') ?? ''));
    facts.replaceChildren(rewardOf(run, i, body));
  }, (error) => say(error));
  const title = `${roleName(run.get('role', i))}, round ${run.table.round[i]}, step ${run.table.step[i]}`;
  return el('section', {}, el('h2', {}, link(viewerHash(run, i), title)), el('p', {}, run.get('question', i)), turns, facts);
}

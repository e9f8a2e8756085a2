// A round as a flow: question -> attempts -> verdicts -> labels -> updates, each with its numbers.

function roundView(run, query, wanted) {
  const numbers = run.rounds.map((line) => line.round);
  const last = numbers[numbers.length - 1];
  const at = numbers.includes(Number(wanted)) && wanted !== undefined ? Number(wanted) : last;
  const line = run.rounds.find((each) => each.round === at);
  const steps = run.steps.filter((step) => step.round === at);
  const tabs = numbers.map((round) => link(hashOf(['round', String(round)], { run: run.number || '' }), String(round), { 'aria-current': round === at ? 'page' : null }));
  return [
    el('h1', {}, `Round ${at}`, at === 0 ? ': the base' : ''),
    el('nav', { class: 'pages', 'aria-label': 'Rounds' }, tabs),
    steps.length || questionsOf(run, at).length ? flow(run, at, line, steps) : el('p', { class: 'quiet' }, 'Nothing is learnt in round 0: it evaluates the base.'),
    evaluation(line),
    questionTable(run, at),
  ];
}

const questionsOf = (run, round) => run.questions.filter((question) => question.round === round);

function flow(run, round, line, steps) {
  const asked = questionsOf(run, round);
  const stages = [];
  if (asked.length) stages.push(questionStage(run, round, line, asked), attemptStage(asked), verdictStage(asked), labelStage(run, round));
  for (const phase of new Set(steps.map((step) => step.phase))) stages.push(...updateStages(run, round, phase, steps));
  return el('ol', { class: 'flow', 'aria-label': 'What happened in the round' }, stages.filter(Boolean).map((stage) => el('li', {}, stage)));
}

function stage(title, entries, hash) {
  const facts = entries.filter(([, value]) => value !== '–').map(([name, value]) => [el('dt', {}, name), el('dd', {}, value)]);
  return [el('h2', {}, hash ? link(hash, title) : title), el('dl', {}, facts)];
}

const rowsIn = (run, round, role, more = {}) => hashOf(['trajectories'], { round, role, ...more, run: run.number || '' });

function questionStage(run, round, line, asked) {
  return stage('Questions', [
    ['accepted', whole(asked.length)], ['diversity of all written', number(line.question_diversity)],
    ['in the pool', whole(line.pool)],
  ], rowsIn(run, round, 'generator'));
}

const share = (items, test) => (items.length ? items.filter(test).length / items.length : null);

function attemptStage(asked) {
  const attempts = asked.flatMap((question) => question.attempts);
  return stage('Attempts', [
    ['in all', whole(attempts.length)], ['a question', number(attempts.length / asked.length, 1)],
    ['with an answer', percent(share(attempts, ([answer]) => answer !== null))],
    ['answers a question', number(mean(asked.map((question) => new Set(question.attempts.map(([answer]) => answer)).size)), 1)],
  ]);
}

function verdictStage(asked) {
  const verdicts = asked.flatMap((question) => question.attempts.flatMap(([, given]) => given));
  return stage('Verdicts', [
    ['in all', whole(verdicts.length)], ['correct', percent(share(verdicts, (each) => each === 'correct'))],
    ['none given', percent(share(verdicts, (each) => each === null))],
  ]);
}

function labelStage(run, round) {
  const rows = rowsOf(run, (i) => run.table.round[i] === round && run.isVerdict(i));
  const labels = [...new Map(rows.map((i) => [run.groupOf[i], run.get('label', i)])).values()];
  if (!rows.length) return null;
  return stage('Labels', [
    ['tasks of the judge', whole(labels.length)], ['labelled correct', percent(share(labels, (label) => label === 'correct'))],
    ['verdicts as labelled', percent(share(rows, (i) => run.table.match[i] === 1))],
  ], rowsIn(run, round, 'grm'));
}

// one for each role that played in the phase
function updateStages(run, round, phase, steps) {
  const own = steps.filter((step) => step.phase === phase);
  const roles = [...new Set(own.flatMap((step) => Object.keys(byRole(step))))];
  return roles.map((role) => {
    const rewards = own.map((step) => byRole(step)[role]?.reward).filter(known);
    const norms = own.map((step) => ofRole(step, role, 'grad_norm')).filter(known);
    return stage(role === phase ? `${roleName(role)} learns` : `${roleName(role)} in ${phase}`, [
      ['steps', whole(own.length)], ['reward', rewards.length > 1 ? `${number(rewards[0])} → ${number(rewards[rewards.length - 1])}` : number(rewards[0])],
      ['gradient norm', number(mean(norms), 3)], ['sampled tokens/s', whole(Math.round(mean(own.map((step) => step.tokens_per_s ?? 0))))],
      ['time', clock(own.reduce((sum, step) => sum + (step.seconds ?? 0), 0))],
    ], rowsIn(run, round, role));
  });
}

function evaluation(line) {
  const facts = [
    ['questions', whole(line.n_eval)], ['right answers', percent(line.policy_accuracy)], ['F1', percent(line.f1)],
    ['searches a question', number(line.searches)], ['judge right', percent(line.grm_accuracy)],
    ['right answers passed', percent(line.grm_true_positive_rate)], ['wrong answers refused', percent(line.grm_true_negative_rate)],
    ['solvable questions', percent(line.solvable_share)], ['judge against the truth, both rates', percent(line.judge_agreement)], ['judge passes', percent(line.judge_pass_rate)], ['time of the round', clock(line.seconds)],
  ].filter(([, value]) => value !== '–');
  return el('section', {}, el('h2', {}, 'Evaluation on held-out tasks'), el('dl', { class: 'facts' }, facts.map(([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value)))));
}

const MOST_QUESTIONS = 200;

function questionTable(run, round) {
  const asked = questionsOf(run, round);
  if (!asked.length) return null;
  const rows = asked.slice(0, MOST_QUESTIONS).map((question) => [
    link(hashOf(['task'], { q: question.text, run: run.number || '' }), question.text),
    question.references.join(' / ') || '–', answers(question),
  ]);
  const more = asked.length > MOST_QUESTIONS ? ` (the first ${MOST_QUESTIONS} of ${whole(asked.length)})` : '';
  return el('section', {}, el('h2', {}, 'Questions that were accepted'), table(['question', 'reference', 'attempts: answer × how often, verdicts'], rows, `Questions of round ${round}${more}`));
}

// equal answers together: "Oslo × 3 ✓✓✗"
function answers(question) {
  const byAnswer = new Map();
  for (const [answer, verdicts] of question.attempts) {
    const seen = byAnswer.get(answer) ?? { count: 0, marks: '' };
    byAnswer.set(answer, { count: seen.count + 1, marks: seen.marks + verdicts.map(mark).join('') });
  }
  const items = [...byAnswer].sort((a, b) => b[1].count - a[1].count).map(([answer, { count, marks }]) =>
    el('li', {}, answer ?? 'no answer', count > 1 ? ` × ${count} ` : ' ', el('span', { class: 'marks', title: 'verdicts: ✓ correct, ✗ wrong, · none' }, marks)));
  return el('ul', { class: 'answers' }, items);
}

const mark = (verdict) => ({ correct: '✓', wrong: '✗' })[verdict] ?? '·';

function rowsOf(run, test) {
  const found = [];
  for (let i = 0; i < run.count; i++) if (test(i)) found.push(i);
  return found;
}
